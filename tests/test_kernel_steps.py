"""Steps that run kernels give the plain form's hidden states, on one device or many."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model, parameters, quant, sharding
from r1jax.cache import Batch, Geometry, make_pools
from r1jax.errors import ConfigError, ShardingError
from r1jax.layers import expert_places
from r1jax.pallas.backend import REFERENCE, interpreted
from r1jax.presets import preset
from r1jax.target import PLAIN, Target, target_for

PAGE, COLUMNS = 16, 24
LENGTHS = (330, 67)
FEW = Geometry(decodes=2, chunks=1, chunk_tokens=48)
LONG = Geometry(decodes=2, chunks=1, chunk_tokens=256)
SHAPES = {"few": FEW, "long": LONG}
GUESSED = [g._replace(decode_tokens=3) for g in (FEW, LONG)]


@functools.cache
def config_of(family):
    """A toy whose heads fill registers, as the real models' do, and any mesh cuts."""
    if family == "wide":
        return wide_config()
    config = preset(f"tiny-{family}")
    sizes = dict(heads=8)
    if family != "r1":
        sizes = dict(heads=16, kv_heads=8, head_dim=64)
    attention = dataclasses.replace(config.attention, **sizes)
    return dataclasses.replace(config, attention=attention)


def wide_config():
    """R1's shape at the least size whose blocks of few bits two devices can share."""
    config = preset("tiny-r1")
    attention = dataclasses.replace(
        config.attention, heads=8, q_rank=256, nope_dim=64, rope_dim=64, value_dim=64
    )
    assert config.moe is not None
    moe = dataclasses.replace(config.moe, expert_width=256, experts=8, expert_groups=2)
    return dataclasses.replace(
        config,
        width=256,
        mlp_width=512,
        layers=2,
        attention=attention,
        moe=moe,
        mtp_layers=0,
    )


@functools.cache
def params_of(family):
    config = config_of(family)
    return jax.jit(lambda: parameters.init(config, jax.random.key(0)))()


@functools.cache
def quantised(family, form):
    """The toy with kernels of few bits, and the plain tree that these stand for."""
    few = quant.quantise_tree(params_of(family), quant.scheme(form))
    return few, quant.widen_tree(few, params_of(family))


@functools.cache
def sequences():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 512, length) for length in LENGTHS]


@functools.cache
def wanted(family, form=None):
    run = jax.jit(lambda p, t: model.forward(config_of(family), p, t))
    params = quantised(family, form)[1] if form else params_of(family)
    return [np.asarray(run(params, jnp.asarray(s))) for s in sequences()]


def schedule(g):
    """Steps of one device: rows of (sequence, start, count), decodes then a chunk.

    Guesses, where rows have places for them, are wrong first, and then right.
    """
    steps = []
    for who, length in enumerate(LENGTHS):
        cuts = [*range(0, length - 3, g.chunk_tokens), length - 3]
        pieces = itertools.pairwise(cuts)
        steps += [([], (who, start, end - start)) for start, end in pieces]
    both = list(enumerate(LENGTHS))
    width = g.decode_tokens
    ends = [
        [(who, length - 3 + n, width) for who, length in both]
        for n in range(0, 3, width)
    ]
    if width > 1:
        steps.append(([(who, length - 3, -width) for who, length in both], None))
        steps.append(([(0, LENGTHS[0] - 3, 2)], None))
    return steps + [(decodes, None) for decodes in ends]


def arrays_of(g, decodes, chunk, table_of, home_of=(0, 0)):
    """Returns a step's arrays, and where each row's tokens lie.

    A decode of a negative count has wrong guesses; its first token alone is one.
    """
    tokens, positions = np.zeros(g.tokens, np.int32), np.full(g.tokens, -1, np.int32)
    table = np.zeros((g.rows, COLUMNS), np.int32)
    lengths, homes = np.zeros((2, g.rows), np.int32)
    rows = []
    for i, (who, at, count) in enumerate(decodes):
        rows.append((i, i * g.decode_tokens, who, at, count))
    if chunk:
        rows.append((g.decodes, g.first_chunk, *chunk))
    right = []
    for row, place, who, start, count in rows:
        fed = sequences()[who][start : start + abs(count)].copy()
        if count < 0:
            fed[1:] = (fed[1:] + 1) % 512
        right.append((row, place, who, start, count if count > 0 else 1))
        tokens[place : place + len(fed)] = fed
        positions[place : place + len(fed)] = np.arange(start, start + len(fed))
        table[row], lengths[row] = table_of[who], start + len(fed)
        homes[row] = home_of[who]
    return (tokens, positions, table, lengths, homes), right


def pages_of(rng):
    """Gives each sequence pages of its own, in no order; page 0 is nobody's.

    Where devices share sequences a page number may occur on each of them, and does.
    """
    pages = 1 + rng.permutation(2 * COLUMNS)
    return np.split(pages.astype(np.int32), 2)


def check(family, target, g, params=None, form=None):
    """Feeds both sequences on every data shard and compares each hidden state.

    Half of the shards are one step behind, so that their loops differ.
    """
    config, rng = config_of(family), np.random.default_rng(1)
    params = params_of(family) if params is None else params
    answers, on = wanted(family, form), target.placement
    devices = on.devices("rows") if on else 1
    tables = [pages_of(rng) for _ in range(devices)]
    homes = rng.integers(0, on.mesh.size if on else 1, (devices, 2))
    pools = make_pools(config, 1 + 2 * COLUMNS, PAGE, jnp.float32, target)
    pools = {n: pool.at[:, :].set(jnp.nan) for n, pool in pools.items()}
    if target.kernels:  # padding lanes of latents are zero, whoever owns them
        width = getattr(config.attention, "latent_dim", None)
        pools = {n: pool.at[..., width:].set(0) for n, pool in pools.items()}
    run = jax.jit(
        lambda params, pools, batch: model.step(config, params, pools, batch),
        donate_argnums=1,
    )
    steps = [*schedule(g), ([], None)]
    for now, before in zip(steps, [([], None), *steps], strict=False):
        shards = [
            arrays_of(g, *(before if i % 2 else now), tables[i], homes[i])
            for i in range(devices)
        ]
        joined = (np.concatenate(a) for a in zip(*(a for a, _ in shards), strict=True))
        batch = Batch(*map(jnp.asarray, joined), geometry=g, target=target)
        hidden, pools = run(params, pools, batch)
        for shard, found in enumerate(np.split(np.asarray(hidden), devices)):
            for _, place, who, start, count in shards[shard][1]:
                right = answers[who][start : start + count]
                np.testing.assert_allclose(
                    found[place : place + count],
                    right,
                    atol=3e-5 * np.abs(right).max(),
                )


def cases(always, more):
    """Parameters of tests: some that always run, and more that are slow."""
    return [*always, *[pytest.param(*case, marks=pytest.mark.slow) for case in more]]


FAMILIES = [("r1", "few"), ("qwen3", "long")]
MORE_FAMILIES = [
    (family, g)
    for family in ("r1", "qwen2", "qwen3")
    for g in SHAPES
    if (family, g) not in FAMILIES
]


@pytest.mark.parametrize(("family", "g"), cases(FAMILIES, MORE_FAMILIES))
def test_the_kernels_meanings_give_the_whole_sequence(family, g):
    check(family, Target("kernels", REFERENCE), SHAPES[g])


@pytest.mark.parametrize("family", ["r1", "qwen2"])
@pytest.mark.parametrize(
    "g",
    [GUESSED[0], pytest.param(GUESSED[1], marks=pytest.mark.slow)],
    ids=["few", "long"],
)
def test_the_kernels_meanings_verify_guesses(family, g):
    check(family, Target("kernels", REFERENCE), g)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["r1", "qwen2"])
def test_simulated_kernels_verify_guesses(family):
    check(family, Target("kernels", interpreted("v6e")), GUESSED[0])


@pytest.mark.parametrize(
    ("family", "g"),
    cases([("r1", "few")], [("r1", "long"), ("qwen2", "few"), ("qwen2", "long")]),
)
def test_simulated_kernels_give_the_whole_sequence(family, g):
    check(family, Target("kernels", interpreted("v6e")), SHAPES[g])


SPLITS = [(d, t) for d in (1, 2, 4, 8) for t in (1, 2, 4, 8) if d * t <= 8]
MESHES = [("latency", 2, 1), ("throughput", 2, 2)]
ANY = [
    ("r1", *MESHES[0], "few"),
    ("r1", *MESHES[1], "long"),
    ("qwen2", *MESHES[1], "few"),
]
OTHERS = [
    *[("latency", *split) for split in [(1, 1), (1, 2), (1, 4), (2, 2), (2, 4)]],
    *[("throughput", *split) for split in SPLITS if split != (2, 2)],
]
MORE = [
    (family, *mesh, g)
    for family in ("r1", "qwen2")
    for mesh in [*MESHES, *OTHERS]
    for g in SHAPES
    if (family, *mesh, g) not in ANY
]


@pytest.mark.parametrize(("family", "rules", "data", "tensor", "g"), cases(ANY, MORE))
def test_any_mesh_gives_the_whole_sequence(family, rules, data, tensor, g):
    """Long chunks bring enough tokens for them to travel to their experts."""
    config, mesh = config_of(family), sharding.make_mesh(data, tensor)
    placement = sharding.Placement(mesh, rules)
    axes = parameters.logical_axes(config)
    where = sharding.shardings(params_of(family), axes, mesh, rules)
    cut = jax.device_put(params_of(family), where)
    check(family, Target("kernels", REFERENCE, placement), SHAPES[g], cut)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["r1", "qwen2"])
@pytest.mark.parametrize(("rules", "data", "tensor"), MESHES)
@pytest.mark.parametrize("g", GUESSED, ids=["few", "long"])
def test_any_mesh_verifies_guesses(family, rules, data, tensor, g):
    mesh = sharding.make_mesh(data, tensor)
    placement = sharding.Placement(mesh, rules)
    axes = parameters.logical_axes(config_of(family))
    where = sharding.shardings(params_of(family), axes, mesh, rules)
    cut = jax.device_put(params_of(family), where)
    check(family, Target("kernels", REFERENCE, placement), g, cut)


@pytest.mark.parametrize("g", cases(["long"], [["few"]]))
def test_copies_of_experts_give_the_whole_sequence(g):
    config, params = config_of("r1"), params_of("r1")
    loads = np.tile(1 / (1 + np.arange(16)), (2, 1))
    places = expert_places.plan_places(config, 4, 3, loads)
    axes = expert_places.arranged_axes(parameters.logical_axes(config), places)
    arranged = expert_places.arrange(params, places)
    placement = sharding.Placement(sharding.make_mesh(2, 2), "throughput")
    where = sharding.shardings(arranged, axes, placement.mesh, placement.rules)
    cut = jax.device_put(arranged, where)
    check("r1", Target("kernels", REFERENCE, placement), SHAPES[g], cut)


def check_few(family, form, data=0, tensor=1, rules="throughput"):
    params, scheme = quantised(family, form)[0], quant.scheme(form)
    if not data:
        return check(family, Target("kernels", REFERENCE), FEW, params, form)
    axes = parameters.logical_axes(config_of(family), scheme)
    placement = sharding.Placement(sharding.make_mesh(data, tensor), rules)
    where = sharding.shardings(params, axes, placement.mesh, placement.rules)
    target = Target("kernels", REFERENCE, placement)
    return check(family, target, FEW, jax.device_put(params, where), form)


@pytest.mark.parametrize("data", cases([2], [[0]]))
def test_dense_weights_of_few_bits_multiply_as_what_they_stand_for(data):
    check_few("qwen2", "int8", data, 2)


MANY = [
    (form, *split)
    for form in quant.FORMS
    for split in SPLITS
    if form != "fp8_blocks" or split[1] <= 2  # see the refusal below
]
SOME = [("fp8_blocks", 2, 2), ("int4", 0, 1)]


@pytest.mark.parametrize(
    ("form", "data", "tensor"),
    cases(SOME, [many for many in MANY if many not in SOME]),
)
def test_experts_of_few_bits_multiply_as_what_they_stand_for(form, data, tensor):
    check_few("wide", form, data, tensor)


def test_blocks_that_a_mesh_would_cut_are_refused():
    """Eight devices: 64 of the shared experts' 512 columns each, half a block."""
    with pytest.raises((ShardingError, ConfigError), match=r"\d+"):
        check_few("wide", "fp8_blocks", 1, 8)


LLAMA, TOY = preset("distill-llama-8b"), preset("tiny-llama")


def test_a_cpu_walks_rows_and_a_tpu_runs_kernels():
    assert target_for("cpu", LLAMA).by_rows
    assert target_for("TPU v6 lite", LLAMA).backend.chip.name == "v6e"
    assert target_for("TPU v6 lite", preset("r1")).kernels
    assert not target_for("TPU v6 lite", LLAMA, kernels=False).kernels


def test_where_kernels_cannot_run_plain_jax_does(caplog):
    for kind, config in (("TPU v2", LLAMA), ("TPU v6 lite", TOY)):
        assert target_for(kind, config) == PLAIN
    assert "they are compiled for TPU v5 lite" in caplog.text
    assert "heads 16 wide do not fill registers" in caplog.text
    assert target_for("some other accelerator", LLAMA) == PLAIN


def test_a_gpu_runs_kernels_when_asked():
    h100 = "NVIDIA H100 80GB HBM3"
    assert target_for(h100, LLAMA) == PLAIN
    assert target_for(h100, LLAMA, kernels=True).backend.kind == "gpu"


def test_kernels_that_cannot_run_are_refused_when_asked_for():
    with pytest.raises(ConfigError, match="kernels are asked for on 'cpu'"):
        target_for("cpu", LLAMA, kernels=True)
    with pytest.raises(ConfigError) as caught:
        target_for("TPU v5 lite", TOY, kernels=True)
    assert "16 wide" in caught.value.why
