"""The real TPU compiler takes whole steps of real models, and finds kernels in them."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

from r1jax import cache, model, parameters, quant, sharding
from r1jax.cache import Batch, Geometry
from r1jax.engine.programs import Programs, state_shapes
from r1jax.presets import preset
from r1jax.target import target_for
from tests.pallas.tpu import devices, needs_compiler

pytestmark = [pytest.mark.tpu_compile, needs_compiler]

COLUMNS, PAGE = 64, 128
V5E_BYTES = 15.75 * 2**30  # what the compiler lets a program use of a v5e's 16 GB


def slice_of(config, topology, data, tensor):
    grid = np.array(devices(topology)).reshape(data, tensor)
    placement = sharding.Placement(Mesh(grid, sharding.MESH_AXES), "throughput")
    return target_for(grid.flat[0].device_kind, config, placement)


def shape(target, axes, sizes, dtype=jnp.int32):
    on = target.placement
    where = NamedSharding(on.mesh, on.spec(axes, sizes))
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)


def weights(config, target, few_bits, mtp=False):
    """Returns the tree of shapes, placed; int8 where that is asked for."""
    scheme = quant.scheme("int8") if few_bits else None
    tree = parameters.abstract(config, jnp.bfloat16, scheme)
    axes = parameters.logical_axes(config, scheme)
    for shelf in (tree, axes):
        if not mtp:
            shelf.pop("mtp", None)
    on = target.placement
    where = sharding.shardings(tree, axes, on.mesh, on.rules)
    return jax.tree.map(
        lambda leaf, w: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=w),
        tree,
        where,
    )


def pools(config, target, pages, more=0):
    return cache.abstract_pools(config, pages, PAGE, jnp.bfloat16, target, more)


def compiled(function, target, *arguments):
    """Compiles with the weights (first) as the compiler lays them, pools donated."""
    where = jax.tree.map(lambda x: x.sharding, arguments)
    laid = jax.tree.map(lambda w: Format(Layout.AUTO, w), where[0])
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with jax.set_mesh(target.placement.mesh):
        jitted = jax.jit(function, in_shardings=(laid, *where[1:]), donate_argnums=1)
        return jitted.trace(*plain).lower(lowering_platforms=("tpu",)).compile()


def kernels_of(program, pool, heads):
    """Checks what a step may not hold; returns the names of its kernels."""
    text, memory = program.as_text(), program.memory_analysis()
    assert "ragged-dot" not in text
    # A softmax outside a kernel would have its exponentials there; merging shares of
    # one takes an exponential for each query, never for each key.
    found = re.findall(r"f32\[([\d,]+)\]\S* exponential\(.*op_name=\"([^\"]*)\"", text)
    assert found
    assert not [
        x
        for x in found
        if "/attention/" in x[1] and not x[0].endswith((",1", f",{heads}"))
    ]
    held = math.prod(pool.sharding.shard_shape(pool.shape))
    bytes_here = held * pool.dtype.itemsize
    assert memory.alias_size_in_bytes >= bytes_here
    assert memory.temp_size_in_bytes < bytes_here / 4
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < V5E_BYTES
    calls = re.findall(r"%([a-z_]+)[.\d]* = .*tpu_custom_call", text)
    return set(calls)


R1 = ("r1", "v5e:8x8", 8, 8)
LLAMA = ("distill-llama-8b", "v5e:2x2", 1, 4)


def model_step(name, topology, data, tensor, g, few_bits):
    """The model's step and its likeliest tokens."""
    config = preset(name)
    target = slice_of(config, topology, data, tensor)
    pool = pools(config, target, 128)
    tokens = shape(target, ("tokens",), (data * g.tokens,))
    batch = Batch(
        tokens,
        tokens,
        shape(target, ("rows", None), (data * g.rows, COLUMNS)),
        shape(target, ("rows",), (data * g.rows,)),
        geometry=g,
        target=target,
    )

    def step(params, pools, batch):
        hidden, pools = model.step(config, params, pools, batch)
        return jnp.argmax(model.logits(params, hidden), axis=-1), pools

    params = weights(config, target, few_bits)
    program = compiled(step, target, params, pool, batch)
    return program, next(iter(pool.values())), config.attention.heads


def engine_step(name, topology, data, tensor, g, few_bits=False, guesses=0):
    """The engine's own step, sampling included, and the prediction layer's guesses."""
    config = preset(name) if isinstance(name, str) else name
    target = slice_of(config, topology, data, tensor)
    pool = pools(config, target, 256, int(guesses > 0))
    small = state_shapes(config, data * g.rows, target.placement)
    held = weights(config, target, few_bits, guesses > 0)
    programs = Programs(config, target, COLUMNS, held, (pool, *small), guesses)
    program = programs.compile_laid(g)
    return program, next(iter(pool.values())), config.attention.heads


def test_r1_decodes_on_64_v5e_chips_by_kernels_alone():
    """All 61 layers, int8, 32 sequences."""
    found = kernels_of(*model_step(*R1, Geometry(4, 0, 0), few_bits=True))
    assert found == {"mla_decode", "quant_matmul", "grouped_matmul"}


def test_llama_8b_decodes_on_4_v5e_chips_by_kernels_alone():
    found = kernels_of(*model_step(*LLAMA, Geometry(8, 0, 0), few_bits=False))
    assert found == {"gqa_decode"}


@pytest.mark.slow
def test_the_engine_s_step_of_r1_runs_kernels_alone():
    step = engine_step(*R1, Geometry(4, 0, 0), few_bits=True)
    assert kernels_of(*step) == {"mla_decode", "quant_matmul", "grouped_matmul"}


@pytest.mark.slow
def test_r1_verifies_and_guesses_on_64_v5e_chips_by_kernels_alone():
    """One guess in each row, the prediction layer, and 8 of the 61 layers.

    With all of them and this cache a chip would need 17.3 GB, by what 4 and 8 take.
    """
    few = dataclasses.replace(preset("r1"), layers=8)
    step = engine_step(few, *R1[1:], Geometry(4, 0, 0, 2), few_bits=True, guesses=1)
    assert kernels_of(*step) == {"mla_mixed", "quant_matmul", "grouped_matmul"}


@pytest.mark.slow
def test_r1_prefills_on_64_v5e_chips_by_kernels_alone():
    found = kernels_of(*model_step(*R1, Geometry(4, 1, 512), few_bits=True))
    assert found == {
        "mla_decode",
        "flash_prefill",
        "quant_matmul",
        "grouped_matmul",
        "expert_dispatch",
        "expert_combine",
        "expert_sum",
        "expert_pack",
        "expert_unpack",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("g", "kernels"),
    [
        (Geometry(8, 0, 0), {"gqa_decode"}),
        (Geometry(8, 0, 0, 4), {"gqa_mixed"}),
        (Geometry(8, 1, 64), {"gqa_mixed"}),
        (Geometry(8, 1, 512), {"gqa_decode", "flash_prefill"}),
    ],
)
def test_the_engine_s_step_of_llama_8b_runs_kernels_alone(g, kernels):
    assert kernels_of(*engine_step(*LLAMA, g)) == kernels
