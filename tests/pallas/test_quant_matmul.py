"""Quantised matmul: kernel and meaning agree for every form, and sizes are refused."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas.tpu import compile_for, needs_compiler
from r1jax.errors import ConfigError
from r1jax.pallas import backend as backends
from r1jax.pallas.chips import CHIPS
from r1jax.pallas.dequant import FORMS
from r1jax.pallas.quant_matmul import Blocks, quant_matmul
from r1jax.pallas.quant_matmul.cases import CASES, Case

SIMULATED = backends.interpreted("v6e")
# Of the largest value; a bfloat16 result is rounded once.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
QUANTISED = [form for form in FORMS if FORMS[form].scaling]


def inputs(case, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, weight, scales = case.arguments()
    if jnp.issubdtype(weight.dtype, jnp.integer):
        most = 7 if case.form == "int4" else 127
        w = rng.integers(-most, most + 1, weight.shape)
        w = jnp.asarray(w, jnp.int8).astype(weight.dtype)
    else:
        w = jnp.asarray(rng.normal(size=weight.shape), jnp.float32)
        w = w.astype(weight.dtype)
    return (
        jnp.asarray(rng.normal(size=x.shape), dtype),
        w,
        jnp.asarray(rng.uniform(0.01, 0.02, scales.shape), jnp.float32),
    )


def assert_same(case, dtype=jnp.float32, **options):
    args = inputs(case, dtype)
    got = np.asarray(quant_matmul(*args, backend=SIMULATED, **options), np.float32)
    want = quant_matmul(*args, backend=backends.REFERENCE)
    scale = jnp.abs(want).max().astype(jnp.float32)
    want = np.asarray(want, np.float32)
    atol = TOLERANCE[jnp.dtype(dtype).name]
    np.testing.assert_allclose(got / scale, want / scale, atol=atol, rtol=0)


@pytest.mark.parametrize("case", [c.small() for c in CASES], ids=lambda c: c.name)
def test_kernel_equals_its_meaning(case):
    assert_same(case)


@pytest.mark.parametrize("form", QUANTISED)
def test_rows_of_bfloat16_agree(form):
    assert_same(Case("", 16, 512, 256, form), jnp.bfloat16)


@pytest.mark.parametrize("chip", ["v6e", "v7x"])
def test_every_number_of_fp8_is_read_exactly(chip):
    """Chips differ in the fp8 that they unpack; -0 and the smallest count too."""
    bits = np.arange(256, dtype=np.uint8)
    numbers = bits[(bits & 0x7F) != 0x7F].view(jnp.float8_e4m3fn.dtype)
    weight = jnp.asarray(np.resize(numbers, (256, 256)))
    got = quant_matmul(
        jnp.eye(256), weight, jnp.ones(256), backend=backends.interpreted(chip)
    )
    np.testing.assert_array_equal(np.asarray(got), np.asarray(weight, np.float32))


@pytest.mark.parametrize("form", QUANTISED)
@pytest.mark.parametrize("columns", [2, 200])
def test_fewer_columns_than_a_block_has(form, columns):
    assert_same(Case("", 1, 512, columns, form))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    form=st.sampled_from(QUANTISED),
    blocks=st.sampled_from([None, Blocks(16, 128, 256), Blocks(32, 256, 512)]),
)
def test_drawn_sizes(rows, columns, form, blocks):
    assert_same(Case("", rows, 512, columns, form), blocks=blocks)


@pytest.mark.parametrize("depth", [72, 192, 896])
def test_a_depth_that_is_no_multiple_of_128(depth):
    assert_same(Case("", 4, depth, 160))


def test_one_layer_of_a_stack():
    x, w, scales = inputs(Case("", 4, 256, 256, "fp8_blocks"))
    stack, scaled = (jnp.stack([a, jnp.full_like(a, jnp.nan)]) for a in (w, scales))
    one = quant_matmul(x, w, scales, backend=backends.REFERENCE)
    for backend in (SIMULATED, backends.REFERENCE):
        got = quant_matmul(x, stack, scaled, layer=jnp.int32(0), backend=backend)
        np.testing.assert_allclose(
            np.asarray(got), np.asarray(one), rtol=1e-4, atol=1e-4
        )


def test_what_does_not_fit_is_refused():
    call = functools.partial(quant_matmul, backend=SIMULATED)
    x = jnp.zeros((4, 896), jnp.bfloat16)
    weight = jnp.zeros((896, 256), jnp.int4)
    with pytest.raises(ConfigError, match="cut D = 896"):
        call(x, weight, jnp.ones((3, 256)))
    with pytest.raises(ConfigError, match="shape"):
        call(x, weight[:512], jnp.ones((2, 256)))
    with pytest.raises(ConfigError, match="int32"):
        call(x, weight.astype(jnp.int32), jnp.ones(256))
    with pytest.raises(ConfigError, match="columns is all"):
        call(x, weight, jnp.ones(256), blocks=Blocks(4, 100, 896))
    with pytest.raises(ConfigError, match="every size is 1"):
        call(x, weight, jnp.ones(256), blocks=Blocks(0, 128, 896))
    big = jnp.zeros((896, 131072), jnp.int8)
    with pytest.raises(ConfigError, match="bytes in VMEM: x"):
        call(x, big, jnp.ones(131072), blocks=Blocks(4, 131072, 896))


def compiled(case, chip):
    backend = backends.Backend("tpu", CHIPS[chip])
    call = functools.partial(quant_matmul, backend=backend)
    exe = compile_for(chip, call, *case.arguments())
    assert "tpu_custom_call" in exe.as_text()
    # Where there is room XLA may bring a small weight into VMEM ahead of the kernel.
    spare = 2 * case.arguments()[1].size if case.columns % 128 else 2**20
    assert exe.memory_analysis().temp_size_in_bytes < spare


@needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    ("chip", "name"),
    [
        ("v5e", "R1 q_a"),
        ("v6e", "R1 kv_a"),
        ("v7x", "R1 q_a, blocks of fp8"),
        ("v5e", "R1 q_b in eight, int4"),
    ],
)
def test_compiles(chip, name):
    compiled(next(c for c in CASES if c.name == name), chip)


@needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_case_compiles(chip, case):
    compiled(case, chip)
