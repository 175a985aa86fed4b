"""Whether tokens stay or travel, on any mesh, experts give what one device gives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.layers.expert_kernels import TRAVELLERS, experts_by_kernels, pick
from r1jax.layers.expert_places import balance, slots, to_slots
from r1jax.layers.linear import Stacked
from r1jax.layers.moe import experts_all
from r1jax.pallas.backend import REFERENCE, for_device
from r1jax.pallas.expert_dispatch import Axis, make_plan
from r1jax.quant import QArray
from r1jax.sharding import MESH_AXES, Placement, make_mesh
from r1jax.target import Target
from tests.pallas import tpu

WIDTH, HIDDEN, PER_TOKEN = 16, 8, 2
EACH = 5  # tokens on a data shard: no number of holders but one divides them
LAYERS, LAYER = 2, 1
TOLERANCE = 2e-6  # of the largest value: float32 sums in another order
SPLITS = [
    (data, tensor)
    for data, tensor in itertools.product((1, 2, 4, 8), repeat=2)
    if data * tensor <= 8
]
KINDS = ("even", "uneven", "one", "padded")
# Experts and copies: those that divide, or leave slots for copies, or are copied.
COUNTS = [(8, 0), (6, 0), (4, 0), (8, 2)]
FORMS = ("stay", "travel")


def load_of(experts):
    """Expert 0 is half of the load."""
    return 1 / (1 + np.arange(experts)) ** 2


@functools.cache
def matrices(experts):
    rng = np.random.default_rng(1)
    gate_up = rng.standard_normal((LAYERS, experts, WIDTH, 2, HIDDEN)) / 4
    down = rng.standard_normal((LAYERS, experts, HIDDEN, WIDTH)) / 3
    return jnp.float32(gate_up), jnp.float32(down)


def routed(kind, tokens, experts, rng):
    """Returns each token's experts; -1 for none."""
    p = load_of(experts) / load_of(experts).sum() if kind == "uneven" else None
    draws = [rng.choice(experts, PER_TOKEN, False, p) for _ in range(tokens)]
    chosen = np.array(draws, np.int32)
    if kind == "one":
        chosen[:] = [experts - 1, -1]
    if kind == "padded":
        chosen[rng.permutation(tokens)[: tokens // 2 + 1]] = -1
    return chosen


@functools.cache
def on_mesh(data, tensor, experts, redundant, form, rules="throughput"):
    """Returns the function from tokens and routes to sums, cut over a mesh."""
    placement = Placement(make_mesh(data, tensor), rules)
    target, devices = Target("kernels", REFERENCE, placement), data * tensor
    places = balance(np.tile(load_of(experts), (LAYERS, 1)), devices, redundant)
    table = jnp.asarray(slots(places)[LAYER])
    stacks = []
    for stack in matrices(experts):
        held = stack[np.arange(LAYERS)[:, None], places.reshape(LAYERS, -1)]
        spec = placement.spec(
            ("layers", "experts", *[None] * (held.ndim - 2)), held.shape
        )
        stacks.append(jax.device_put(held, NamedSharding(placement.mesh, spec)))

    def run(stacks, x, chosen, weights):
        here, weights = to_slots((chosen, weights), table, share=True)
        here = jnp.where(chosen < 0, -1, here)
        gate_up, down = (Stacked(s, jnp.int32(LAYER), target) for s in stacks)
        return experts_by_kernels(x, gate_up, down, (here, weights), form)

    return functools.partial(jax.jit(run), stacks)


@functools.cache
def alone():
    def run(experts, x, chosen, weights):
        gate_up, down = (stack[LAYER] for stack in experts)
        weights = jnp.where(chosen < 0, 0, weights)
        return experts_all(x, gate_up, down, (jnp.maximum(chosen, 0), weights))

    return jax.jit(run)


def check(run, kind, tokens, experts, rng):
    chosen = routed(kind, tokens, experts, rng)
    x = np.float32(rng.standard_normal((tokens, WIDTH)))
    weights = np.float32(rng.random(chosen.shape))
    wanted = np.asarray(alone()(matrices(experts), x, chosen, weights))
    x[(chosen < 0).all(1)] = np.nan  # padding holds anything
    y = np.asarray(run(x, chosen, weights))
    np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("data", "tensor", "experts", "redundant"),
    [(1, 8, 4, 0), (2, 2, 6, 0), (4, 2, 8, 2)],
)
def test_staying_and_travelling_give_one_result(
    data, tensor, experts, redundant, form, rng
):
    run = on_mesh(data, tensor, experts, redundant, form)
    for kind in KINDS:
        check(run, kind, data * EACH, experts, rng)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("experts", "redundant"), COUNTS)
@pytest.mark.parametrize(("data", "tensor"), SPLITS)
def test_every_mesh_gives_one_result(data, tensor, experts, redundant, form, rng):
    devices = data * tensor
    run = on_mesh(data, tensor, experts, redundant if devices > 1 else 0, form)
    for kind in KINDS:
        check(run, kind, data * EACH, experts, rng)


@pytest.mark.parametrize("form", FORMS)
def test_devices_that_all_hold_every_token_give_one_result(form, rng):
    """Under the rule set for few sequences, which cuts no tokens."""
    check(on_mesh(2, 4, 6, 0, form, "latency"), "uneven", EACH, 6, rng)


@pytest.mark.parametrize("form", FORMS)
def test_replicas_of_the_experts_each_see_all_tokens(form, rng):
    """Under the rule set that cuts experts over `tensor` alone."""
    run = on_mesh(2, 4, 6, 0, form, "training")
    check(run, "uneven", 2 * EACH, 6, rng)


def test_the_number_of_tokens_decides():
    assert pick(TRAVELLERS - 1, 8) == "stay"
    assert pick(TRAVELLERS, 8) == pick(TRAVELLERS, 64) == "travel"
    assert pick(10**6, 1) == "stay"


@pytest.mark.parametrize(("tokens", "sums"), [(TRAVELLERS - 8, 1), (TRAVELLERS, 0)])
def test_what_is_decided_runs(tokens, sums):
    """Only where tokens stay are sums added up over the devices that share them."""
    run = on_mesh(2, 4, 8, 0, None)
    shapes = ((WIDTH,), jnp.float32), ((PER_TOKEN,), jnp.int32)
    x, chosen = (jnp.zeros((tokens, *s), dtype) for s, dtype in shapes)
    text = str(jax.make_jaxpr(run)(x, chosen, jnp.float32(chosen)))
    assert text.count("psum[") == sums, text


def windows(chosen, experts, capacity):
    """Returns how many windows eight devices need for their tokens' rows."""
    mesh, axis = make_mesh(1, 8), Axis("tensor", 8)

    def run(chosen):
        return make_plan(chosen, experts=experts, axis=axis).windows(capacity)

    cut, whole = PartitionSpec("tensor"), PartitionSpec()
    over = jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=whole, check_vma=False)
    return int(jax.jit(over)(chosen))


def test_copies_of_a_busy_expert_spare_windows():
    """All of 8 x 16 tokens choose expert 5, and there is room for twice the mean."""
    chosen = jnp.full((8 * 16, 1), 5, jnp.int32)
    assert windows(chosen, 8, 2 * 16) == 4
    loads = np.array([[0, 0, 0, 0, 0, 1, 0, 0]])
    table = slots(balance(loads, 8, redundant=8))[0]
    assert (table[5] >= 0).sum() == 8
    here, _ = to_slots((chosen, jnp.ones(chosen.shape)), jnp.asarray(table), True)
    assert windows(here, 16, 2 * 16) == 1


def r1_layer(topology, data, tensor, tokens, form, copies):
    """Compiles one layer of R1's experts, int8, for a slice."""
    grid = np.array(tpu.devices(topology)).reshape(data, tensor)
    placement = Placement(Mesh(grid, MESH_AXES), "throughput")
    target = Target("kernels", for_device(grid.flat[0].device_kind), placement)
    experts, d, f, x = 256 + copies, 7168, 2048, 8

    def shape(axis, dtype, *sizes):
        spec = placement.spec([*axis, *[None] * (len(sizes) - len(axis))], sizes)
        where = NamedSharding(placement.mesh, spec)
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    by_slot, by_token = ("layers", "experts"), ("tokens",)

    def stack(*sizes):
        values = shape(by_slot, jnp.int8, 2, experts, *sizes)
        return QArray(values, shape(by_slot, jnp.float32, 2, experts, *sizes[1:]))

    arguments = (
        (stack(d, 2, f), stack(f, d)),
        shape(by_token, jnp.bfloat16, tokens, d),
        (
            shape(by_token, jnp.int32, tokens, x),
            shape(by_token, jnp.float32, tokens, x),
        ),
        shape((), jnp.int32, 256, 2),
    )

    def run(stacks, rows, routes, table):
        gate_up, down = (Stacked(s, jnp.int32(LAYER), target) for s in stacks)
        return experts_by_kernels(
            rows, gate_up, down, to_slots(routes, table, form == "travel"), form
        )

    with jax.set_mesh(placement.mesh):
        traced = jax.jit(run).trace(*arguments)
        return traced.lower(lowering_platforms=("tpu",)).compile()


@tpu.needs_compiler
@pytest.mark.slow
@pytest.mark.tpu_compile
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("slice_of", "own"), [(("v5e:8x8", 8, 8), 5), (("v6e:4x8", 4, 8), 10)]
)
def test_r1_with_64_copies_compiles_in_little_memory(slice_of, own, form):
    """Room for the rows of a window, twice, never for all that could come to one."""
    _, data, tensor = slice_of
    here = 64 * data * tensor if form == "travel" else 128
    program = r1_layer(*slice_of, here, form, 64)
    rows = 2 * 64 * 8 if form == "travel" else here * min(8, own)
    sent = 64 * 8 if form == "travel" else 0
    room = 2 * (rows + sent) * 7168 * 2
    assert program.memory_analysis().temp_size_in_bytes < room
