"""Whole steps of real models lower for CUDA on any machine, with kernels in them."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from r1jax import cache, model, parameters
from r1jax.cache import Batch, Geometry
from r1jax.presets import preset
from r1jax.target import target_for

COLUMNS, PAGE, PAGES = 64, 128, 256
GPU = "NVIDIA H100 80GB HBM3"


def kernels_of(config, g):
    """Lowers a step; returns the names of its Triton kernels."""
    params = parameters.abstract(config, jnp.bfloat16)
    pools = {
        name: jax.ShapeDtypeStruct((config.layers, PAGES, *page), jnp.bfloat16)
        for name, page in cache.pool_shapes(config, PAGE, kernels=True).items()
    }
    ints = [(g.tokens,), (g.tokens,), (g.rows, COLUMNS), (g.rows,)]
    arrays = [jax.ShapeDtypeStruct(sizes, jnp.int32) for sizes in ints]
    target = target_for(GPU, config, kernels=True)
    batch = Batch(*arrays, geometry=g, target=target)

    def step(params, pools, batch):
        hidden, pools = model.step(config, params, pools, batch)
        return jnp.argmax(model.logits(params, hidden), axis=-1), pools

    jax.clear_caches()
    traced = jax.jit(step, donate_argnums=1).trace(params, pools, batch)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "ragged_dot" not in text
    return set(re.findall(r'name = "(\w+)"', text))


@pytest.mark.parametrize(
    "chunk", [pytest.param((0, 0), marks=pytest.mark.slow), (1, 64), (1, 512)]
)
def test_llama_8b_lowers_for_cuda(chunk):
    found = kernels_of(preset("distill-llama-8b"), Geometry(8, *chunk))
    long = {"flash_prefill"} if chunk[1] == 512 else set()
    assert found == {"paged_decode"} | long


@pytest.mark.parametrize("chunk", [(0, 0), (1, 512)])
def test_a_deepseek_of_eight_layers_lowers_for_cuda(chunk):
    """R1's widths; fewer layers and experts, which a GPU could hold."""
    config = preset("r1")
    moe = dataclasses.replace(config.moe, experts=32)
    config = dataclasses.replace(config, layers=8, mtp_layers=0, moe=moe)
    found = kernels_of(config, Geometry(8, *chunk))
    long = {"flash_prefill"} if chunk[1] == 512 else set()
    assert found == {"paged_decode", "grouped_matmul"} | long
