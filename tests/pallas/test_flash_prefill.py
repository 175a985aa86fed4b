"""Long causal chunks: the kernel equals its meaning and compiles for every chip."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.errors import ConfigError
from r1jax.layers.attention import Partial, finish, merge
from r1jax.pallas import backend
from r1jax.pallas.backend import REFERENCE, Backend
from r1jax.pallas.chips import CHIPS
from r1jax.pallas.flash_prefill import Blocks, flash_prefill
from r1jax.pallas.flash_prefill.cases import CASES, Case, case
from tests.pallas.tpu import TOPOLOGIES, compile_for, needs_compiler

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
INTERPRET = backend.interpreted()
SMALL = Blocks(128, 128, 128, 256, 256)


def drawn(shape: Case, dtype: str = "float32", seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=a.shape), dtype) for a in shape.arguments()]


@functools.cache
def compiled_here(kind: str, scale: float, blocks: Blocks | None, partial: bool):
    how = INTERPRET if kind == "interpret" else REFERENCE
    return jax.jit(
        lambda q, k, v, k_rope, p, n: flash_prefill(
            *(q, k, v),
            k_rope=k_rope,
            prefix=p,
            length=n,
            scale=scale,
            backend=how,
            blocks=blocks,
            partial=partial,
        )
    )


def run(how, arrays, prefix, length, scale, blocks=None, partial=False):
    call = compiled_here(how.kind, scale, blocks, partial)
    q, k, v, *shared = arrays
    k_rope = shared[0] if shared else None
    return call(q, k, v, k_rope, jnp.int32(prefix), jnp.int32(length))


def assert_close(got, wanted, dtype: str = "float32"):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        scale = max(1.0, np.abs(b[b > -1e29]).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=TOLERANCE[dtype] * scale)


TWINS = {dataclasses.replace(c.small(), name=""): c.small() for c in CASES}


@pytest.mark.parametrize("small", TWINS.values(), ids=lambda c: c.name)
def test_kernel_equals_reference(small):
    arrays, scale = drawn(small), small.scale
    inputs = (arrays, small.prefix, small.queries, scale)
    assert_close(run(INTERPRET, *inputs), run(REFERENCE, *inputs))


def test_bfloat16_equals_float32():
    small = case("r1-tensor8-2048-behind-4096").small()
    arrays = drawn(small, "bfloat16")
    wide = [a.astype(jnp.float32) for a in arrays]
    got = run(INTERPRET, arrays, small.prefix, small.queries, small.scale)
    wanted = run(REFERENCE, wide, small.prefix, small.queries, small.scale)
    assert got.dtype == jnp.bfloat16
    assert_close(got, wanted, "bfloat16")


def poisoned(arrays, prefix, length):
    """Fills queries that are not real, and keys and values that nobody owns."""
    q, k, v, k_rope = arrays
    end = prefix + length
    return (
        q.at[:, length:].set(jnp.nan),
        k.at[:, end:].set(jnp.nan),
        v.at[:, :, end:].set(jnp.inf),
        k_rope.at[end:].set(-jnp.inf),
    )


LENGTHS = Case("lengths", 2, 1, 512, 384, 192, 128, 64)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    prefix=st.one_of(st.sampled_from([0, 1, 127, 128, 256, 384]), st.integers(0, 384)),
    length=st.one_of(
        st.sampled_from([0, 1, 127, 128, 129, 256, 257, 511, 512]), st.integers(0, 512)
    ),
    blocks=st.sampled_from(
        [SMALL, Blocks(128, 256, 128, 512, 256), Blocks(256, 128, 128, 256, 1024)]
    ),
    partial=st.booleans(),
)
def test_any_length_with_what_no_one_owns_poisoned(prefix, length, blocks, partial):
    arrays = drawn(LENGTHS)
    wanted = run(REFERENCE, arrays, prefix, length, LENGTHS.scale, partial=partial)
    got = run(
        INTERPRET,
        poisoned(arrays, prefix, length),
        prefix,
        length,
        LENGTHS.scale,
        partial=partial,
        blocks=blocks,
    )
    assert_close(got, wanted)
    assert not np.asarray(jax.tree.leaves(got)[0])[:, length:].any()


def test_reference_ignores_poison():
    arrays = drawn(LENGTHS)
    wanted = run(REFERENCE, arrays, 100, 200, LENGTHS.scale)
    got = run(REFERENCE, poisoned(arrays, 100, 200), 100, 200, LENGTHS.scale)
    assert_close(got[:, :200], wanted[:, :200])
    assert not np.asarray(wanted)[:, 200:].any()


def test_large_scores_that_rise_and_fall_stay_finite():
    small = Case("peaks", 1, 1, 256, 256)
    q, k, v = drawn(small)
    swing = 1 + 30 * jnp.sin(jnp.arange(small.keys) / 17.0)
    inputs = ([q, k * swing[None, :, None], v], 256, 256, 0.05)
    got = run(INTERPRET, *inputs, blocks=SMALL)
    assert np.isfinite(got).all()
    assert_close(got, run(REFERENCE, *inputs))


@pytest.mark.parametrize("held", [1, 100, 256, 300, 512])
def test_shares_merge_to_the_whole(held):
    """A chunk's own keys and pieces of a prefix, joined by their statistics."""
    whole = Case("whole", 2, 2, 256, 512)
    q, k, v = drawn(whole)
    blocks = Blocks(128, 128, 128, 256, 256)  # pieces of several chunks of keys

    @jax.jit
    def share(k, v, prefix, keys):
        found = flash_prefill(
            *(q, k, v),
            prefix=prefix,
            length=jnp.int32(256),
            keys=keys,
            scale=whole.scale,
            backend=INTERPRET,
            blocks=blocks,
            partial=True,
        )
        return Partial(*found)

    spoilt = k.at[:, held:].set(jnp.nan), v.at[..., held:].set(jnp.inf)
    before = share(
        spoilt[0][:, :512], spoilt[1][..., :512], jnp.int32(512), jnp.int32(held)
    )
    own = share(
        k[:, held:], v[..., held:], jnp.int32(512 - held), jnp.int32(768 - held)
    )
    got = finish(merge(before, own), jnp.dtype("float32"))
    assert_close(got, run(REFERENCE, (q, k, v), 512, 256, whole.scale))


@pytest.mark.parametrize(
    ("queries", "blocks", "what"),
    [
        (100, None, "100 queries"),
        (256, Blocks(128, 128, 64, 256, 256), "cannot cut"),
        (256, Blocks(128, 256, 128, 256, 384), "cannot cut"),
        (256, Blocks(256, 2048, 128, 256, 2**18), "in VMEM"),
    ],
)
def test_impossible_choices_are_refused_with_numbers(queries, blocks, what):
    arrays = drawn(Case("refused", 1, 1, queries, 0))
    with pytest.raises(ConfigError, match=what):
        run(INTERPRET, arrays, 0, 1, 1.0, blocks=blocks)


def test_query_heads_must_divide():
    with pytest.raises(ConfigError, match="3 query heads for 2 key heads"):
        run(REFERENCE, drawn(Case("odd", 3, 2, 128, 0)), 0, 1, 1.0)


def compiled(chip: str, shape: Case, partial: bool = False):
    how = Backend("tpu", CHIPS[chip])

    def call(prefix, length, q, k, v, k_rope=None):
        return flash_prefill(
            *(q, k, v),
            k_rope=k_rope,
            prefix=prefix,
            length=length,
            scale=shape.scale,
            backend=how,
            partial=partial,
        )

    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    return compile_for(chip, call, scalar, scalar, *shape.arguments())


def assert_kernel_alone(executable, shape: Case):
    text = executable.as_text()
    assert "tpu_custom_call" in text
    assert " dot(" not in text
    # Widths that do not fill lanes may be laid out anew for an argument from outside.
    if shape.width % 128 == 0:
        assert executable.memory_analysis().temp_size_in_bytes < 2**20


QUICK = [
    ("v5e", "llama8b-tensor4-2048"),
    ("v6e", "goal-4096"),
    ("v6e", "r1-tensor8-2048-behind-30720"),
    ("v7x", "r1-tensor8-4096-behind-4096"),
]


@pytest.mark.tpu_compile
@needs_compiler
@pytest.mark.parametrize(("chip", "name"), QUICK)
def test_compiles(chip, name):
    assert_kernel_alone(compiled(chip, case(name)), case(name))


@pytest.mark.tpu_compile
@needs_compiler
def test_compiles_with_statistics():
    assert_kernel_alone(compiled("v5e", case("goal-4096"), True), case("goal-4096"))


@pytest.mark.slow
@pytest.mark.tpu_compile
@needs_compiler
@pytest.mark.parametrize("chip", TOPOLOGIES)
@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_compiles_everywhere(chip, name):
    assert_kernel_alone(compiled(chip, case(name)), case(name))
