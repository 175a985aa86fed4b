"""Tokens go to their experts' devices and come back, none lost, in every form."""

import functools
import os

# The simulator's threads wait for one another: there must be more than devices.
os.environ.setdefault("NPROC", "24")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as simulator
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.errors import ConfigError
from r1jax.pallas import backend as backends
from r1jax.pallas.expert_dispatch import Axis, combine, dispatch, make_plan
from r1jax.pallas.expert_dispatch.api import pick
from r1jax.pallas.expert_dispatch.cases import CASES
from tests.pallas import tpu

REFERENCE = backends.REFERENCE
SIMULATED = backends.interpreted(detect_races=True)
TOLERANCE = 1e-6  # of the largest value: float32 sums in another order
T, D, E, X = 5, 256, 16, 3
NOBODY = E  # an expert's number for "none"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Fails a test in which a simulated kernel raced, or left a semaphore raised."""
    raced, left = [], []
    clear = simulator._clear_shared_memory

    def look(*args):
        shared = simulator._shared_memory
        for device in range(shared.num_devices):
            left.extend(shared.get_sempahores_with_nonzero_count(device))
        raced.append(simulator.races.races_found)
        clear(*args)

    monkeypatch.setattr(simulator, "_clear_shared_memory", look)
    yield
    simulator.reset_tpu_interpret_mode_state()
    assert not any(raced)
    assert not left


def scaled(rows, sizes, axis):
    """Stands for the experts: each scales its rows, and what nobody owns is NaN."""
    row, ends = jnp.arange(len(rows)), jnp.cumsum(sizes)
    expert = jnp.searchsorted(ends, row, side="right") + axis.here * len(sizes)
    out = jnp.where((row < ends[-1])[:, None], rows * (1 + expert)[:, None], jnp.nan)
    return out.astype(rows.dtype)


@functools.cache
def layer(backend, axis, shape, names):
    """Returns rows, sizes and sums, for all that may arrive at once."""

    def run(x, chosen, weights):
        plan = make_plan(chosen, experts=E, axis=axis)
        rows, sizes = dispatch(x, plan, backend=backend)
        out = scaled(rows, sizes, axis)
        return rows, sizes, combine(out, weights, plan, backend=backend)

    return over(shape, names, run)


@functools.cache
def in_windows(backend, axis, capacity):
    """Returns the sums, with room for a few rows at a time."""

    def run(x, chosen, weights):
        plan = make_plan(chosen, experts=E, axis=axis)

        def add(window, y):
            rows, sizes = dispatch(
                x, plan, capacity=capacity, window=window, backend=backend
            )
            out = scaled(rows, sizes, axis)
            return y + combine(out, weights, plan, window=window, backend=backend)

        zeros = jnp.zeros(x.shape, jnp.float32)
        return jax.lax.fori_loop(0, plan.windows(capacity), add, zeros)

    return over((axis.size,), (axis.name,), run)


def over(shape, names, function):
    """Runs a function on each device of a mesh, arguments cut along all of it."""
    mesh = Mesh(np.array(jax.devices()[: np.prod(shape)]).reshape(shape), names)
    spec = PartitionSpec(names)
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
    )


def routed(kind, devices, rng):
    """Returns the experts of all devices' tokens."""
    drawn = [rng.permutation(E)[:X] for _ in range(devices * T)]
    chosen = np.array(drawn, np.int32)
    own = E // devices
    if kind == "one expert":
        chosen[:] = NOBODY
        chosen[:, 1] = own  # the second device's first
    if kind == "one device":
        chosen = np.where(chosen < own, chosen, NOBODY).astype(np.int32)
    if kind == "an idle device":
        chosen = np.where(chosen // own == 2, NOBODY, chosen).astype(np.int32)
    if kind == "nothing":
        chosen[:] = NOBODY
    if kind == "no tokens on some":
        chosen[T : 2 * T] = NOBODY
    return chosen


def arguments(chosen, dtype, rng):
    """Returns x, chosen, weights; tokens and weights without an expert are NaN."""
    x = rng.normal(size=(len(chosen), D)).astype(np.float32)
    weights = rng.random(chosen.shape).astype(np.float32)
    x[(chosen == NOBODY).all(1)] = np.nan
    weights[chosen == NOBODY] = np.nan
    return jnp.asarray(x, dtype), chosen, weights


def expected(x, chosen, weights):
    """Returns the sums by a plain loop over choices."""
    y = np.zeros(x.shape, np.float32)
    for token, expert in zip(*np.nonzero(chosen < NOBODY), strict=True):
        number = chosen[token, expert]
        row = (x[token] * (1 + number)).astype(x.dtype).astype(np.float32)
        y[token] += weights[token, expert] * np.asarray(row)
    return y


def expected_rows(x, chosen, devices):
    """Returns each device's rows: by expert, then by token."""
    own = E // devices
    for device in range(devices):
        experts = range(device * own, (device + 1) * own)
        tokens = [np.nonzero((chosen == e).any(1))[0] for e in experts]
        yield np.asarray(x)[np.concatenate(tokens)], [len(t) for t in tokens]


def check(got, x, chosen, weights, devices):
    """Compares rows, sizes and sums with what they should be."""
    rows, sizes, y = (np.asarray(a) for a in got)
    parts = zip(np.split(rows, devices), np.split(sizes, devices), strict=True)
    wanted = expected_rows(x, chosen, devices)
    for (have, counts), (want, lengths) in zip(parts, wanted, strict=True):
        assert list(counts) == lengths
        np.testing.assert_array_equal(have[: len(want)], want)
    close(y, expected(x, chosen, weights))


def close(y, want):
    """Says that sums are equal up to their order."""
    scale = np.abs(want).max(initial=1)
    np.testing.assert_allclose(y, want, rtol=0, atol=TOLERANCE * scale)


KINDS = ["uneven", "one expert", "one device", "an idle device", "nothing"]


@pytest.mark.parametrize("kind", [*KINDS, "no tokens on some"])
@pytest.mark.parametrize("form", [REFERENCE, SIMULATED], ids=lambda b: b.kind)
def test_every_row_arrives_and_returns(form, kind, rng):
    args = arguments(routed(kind, 4, rng), "bfloat16", rng)
    got = layer(form, Axis("expert", 4), (4,), ("expert",))(*args)
    check(got, *args, 4)


def test_float32_rows(rng):
    """Here a value fills a word, and rows are not paired."""
    args = arguments(routed("uneven", 4, rng), "float32", rng)
    got = layer(SIMULATED, Axis("expert", 4), (4,), ("expert",))(*args)
    check(got, *args, 4)


@pytest.mark.parametrize(
    "kind", [pytest.param("uneven", marks=pytest.mark.slow), "one device"]
)
def test_eight_devices(kind, rng):
    args = arguments(routed(kind, 8, rng), "bfloat16", rng)
    got = layer(SIMULATED, Axis("expert", 8), (8,), ("expert",))(*args)
    check(got, *args, 8)


def test_experts_over_two_mesh_axes(rng):
    """All devices hold experts, whatever axes the mesh has for attention."""
    args = arguments(routed("uneven", 8, rng), "bfloat16", rng)
    names = ("data", "tensor")
    got = layer(SIMULATED, Axis(names, 8), (2, 4), names)(*args)
    check(got, *args, 8)


def test_replicas_keep_to_themselves(rng):
    """Two groups of four devices exchange side by side."""
    chosen = [routed("uneven", 4, rng) for _ in range(2)]
    args = arguments(np.concatenate(chosen), "bfloat16", rng)
    names = ("data", "expert")
    got = layer(SIMULATED, Axis("expert", 4), (2, 4), names)(*args)
    for half in range(2):
        part = [np.split(np.asarray(a), 2)[half] for a in (*got, *args)]
        check(part[:3], *part[3:], 4)


@pytest.mark.parametrize("form", [REFERENCE, SIMULATED], ids=lambda b: b.kind)
@pytest.mark.parametrize("kind", ["uneven", "one expert"])
def test_windows_lose_nothing(form, kind, rng):
    """With room for seven rows, the rest come in further windows."""
    args = arguments(routed(kind, 4, rng), "bfloat16", rng)
    y = in_windows(form, Axis("expert", 4), 7)(*args)
    close(np.asarray(y), expected(*args))


@settings(max_examples=4, derandomize=True, deadline=None)
@given(st.data())
def test_any_routing(data):
    seed = data.draw(st.integers(0, 1000))
    share = data.draw(st.sampled_from([0.0, 0.2, 0.9]))
    favoured = data.draw(st.integers(1, E))
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.permutation(E)[:X] for _ in range(4 * T)], np.int32)
    chosen = np.where(chosen < favoured, chosen, NOBODY)
    chosen = np.where(rng.random(chosen.shape) < share, NOBODY, chosen)
    args = arguments(chosen.astype(np.int32), "bfloat16", rng)
    for form in (REFERENCE, SIMULATED):
        check(layer(form, Axis("expert", 4), (4,), ("expert",))(*args), *args, 4)


def test_experts_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="16 experts do not divide over 3 devices"):
        make_plan(jnp.zeros((T, X), jnp.int32), experts=16, axis=Axis("expert", 3))


def test_rows_that_cannot_be_copied_alone_are_refused(rng):
    def run(x, chosen):
        plan = make_plan(chosen, experts=E, axis=Axis("expert", 4))
        return dispatch(x, plan, backend=SIMULATED)

    with pytest.raises(ConfigError, match="rows of 100 bfloat16"):
        over((4,), ("expert",), run)(
            jnp.zeros((4 * T, 100), jnp.bfloat16), routed("uneven", 4, rng)
        )


def test_the_form_follows_chip_and_devices():
    v5e, v6e = (backends.Backend("tpu", backends.CHIPS[n]) for n in ("v5e", "v6e"))
    assert pick(REFERENCE, Axis("expert", 4)) == "reference"
    assert pick(backends.Backend("gpu"), Axis("expert", 4)) == "reference"
    assert pick(SIMULATED, Axis("expert", 4)) == "kernel"
    assert pick(v5e, Axis("expert", 8)) == "ragged"
    assert pick(v5e, Axis("expert", 64)) == "kernel"
    assert pick(v6e, Axis("expert", 64)) == "ragged"


def compiled(case, form, topology=None, backend=None):
    """Compiles the round trip of a case for its slice; the experts only add one."""
    devices = tpu.devices(topology or case.topology)
    mesh = Mesh(np.array(devices), ("expert",))
    axis = Axis("expert", len(devices))
    backend = backend or backends.for_device(devices[0].device_kind)

    def run(x, chosen, weights):
        plan = make_plan(chosen, experts=case.experts, axis=axis)
        rows, sizes = dispatch(x, plan, backend=backend, form=form)
        return sizes, combine(rows + 1, weights, plan, backend=backend, form=form)

    spec = PartitionSpec("expert")
    everywhere = jax.shard_map(
        run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    placed = [
        jax.ShapeDtypeStruct(
            (len(devices) * a.shape[0], *a.shape[1:]),
            a.dtype,
            sharding=NamedSharding(mesh, spec),
        )
        for a in case.arguments()
    ]
    with jax.set_mesh(mesh):
        lowered = jax.jit(everywhere).trace(*placed).lower(lowering_platforms=("tpu",))
        return lowered.compile()


def check_compiled(case, form):
    program = compiled(case, form)
    text = program.as_text()
    if form == "kernel":
        for name in ("dispatch", "unpack", "pack", "combine", "sum"):
            assert f"expert_{name}" in text
        assert text.count('custom_call_target="tpu_custom_call"') == 5
        # What arrives as copied and as matrix, and the tokens' own few rows.
        room = 2 * case.most_rows() * case.row_bytes
        own = case.tokens * case.per_token * case.row_bytes
        assert program.memory_analysis().temp_size_in_bytes <= room + 2 * own
    if form == "ragged":
        assert "ragged-all-to-all" in text


def named(name):
    return next(case for case in CASES if case.name == name)


@tpu.needs_compiler
@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", ["r1-v6e8-t16", "r1-v5e64-t16", "r1-v7x8-t16"])
def test_kernel_compiles(name):
    check_compiled(named(name), "kernel")


@tpu.needs_compiler
@pytest.mark.tpu_compile
def test_ragged_compiles():
    check_compiled(named("r1-v6e8-t16"), "ragged")


@tpu.needs_compiler
@pytest.mark.slow
@pytest.mark.tpu_compile
def test_the_compiler_still_refuses_ragged_on_large_v5e():
    """When this fails, `api.pick` has a rule too many."""
    with pytest.raises(jax.errors.JaxRuntimeError, match="limited ICI routing"):
        compiled(named("r1-v5e64-t16"), "ragged")


@tpu.needs_compiler
@pytest.mark.slow
@pytest.mark.tpu_compile
@pytest.mark.parametrize("form", ["kernel", "ragged", "reference"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_compiles(case, form):
    if form == "ragged" and case.topology == "v5e:8x8":
        pytest.skip("the compiler refuses it: limited ICI routing")
    check_compiled(case, form)


@tpu.needs_compiler
@pytest.mark.slow
@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology", ["v5p:2x2x2", "v6e:2x2", "tpu7x:2x2x2"])
def test_ragged_compiles_on_other_slices(topology):
    backend = backends.Backend("tpu", backends.CHIPS["v6e"])
    compiled(named("r1-v6e8-t64"), "ragged", topology, backend)
