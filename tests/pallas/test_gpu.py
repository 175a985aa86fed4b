import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from r1jax.errors import ConfigError
from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import Backend
from r1jax.pallas.flash_prefill import flash_prefill
from r1jax.pallas.flash_prefill import gpu as prefill
from r1jax.pallas.flash_prefill.cases import CASES as FLASH
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.grouped_matmul import gpu as grouped
from r1jax.pallas.mla_attention.cases import CASES as MLA
from r1jax.pallas.paged import gpu as paged
from tests.pallas.gpu import BF16, F32, INT8

SHAPE = jax.ShapeDtypeStruct
SCALAR = SHAPE((), jnp.int32)


def moe(rows, experts, width, columns, gates=1, stored=BF16):
    gated = (2,) if gates == 2 else ()
    shapes = [
        SHAPE((rows, width), BF16),
        SHAPE((experts,), jnp.int32),
        SHAPE((experts, width, *gated, columns), stored),
    ]
    if stored != BF16:
        shapes.append(SHAPE((experts, *gated, columns), F32))
    sizes = (experts, rows, width, columns)
    blocks = grouped.blocks_for(sizes, gates, BF16, stored)
    needed = grouped.shared_bytes(blocks, gates, BF16, stored)
    return grouped.grouped_matmul, shapes, needed


def pages(batch, heads, width, pool, value_width=None, dtype=BF16):
    places = 512 if value_width else 128
    shapes = [
        SHAPE((batch, heads, width), dtype),
        SHAPE(pool, dtype),
        SCALAR,
        SHAPE((batch, places), jnp.int32),
        SHAPE((batch,), jnp.int32),
    ]
    kv_heads = 1 if value_width else pool[2]
    parts = (
        paged.key_and_value(width, 0, value_width)
        if value_width
        else paged.key_and_value(width, width, width)
    )
    tokens = places * pool[-2]
    blocks = paged.blocks_for(batch, heads, kv_heads, tokens, *parts, dtype)
    needed = paged.shared_bytes(blocks, *parts, dtype)
    call = functools.partial(paged.decode, scale=0.1, value_width=value_width)
    return call, shapes, needed


def chunks(heads, kv_heads, tokens, keys, width, value_width, dtype=BF16):
    shapes = [
        SHAPE((heads, tokens, width), dtype),
        SHAPE((kv_heads, keys, width), dtype),
        SHAPE((kv_heads, value_width, keys), dtype),
        SCALAR,
        SCALAR,
    ]
    blocks = prefill.blocks_for(tokens, width, value_width, dtype)
    needed = prefill.shared_bytes(blocks, width, value_width, dtype)
    return functools.partial(prefill.flash_prefill, scale=0.1), shapes, needed


LATENTS = (61, 2000, 64, 640)
REAL = {
    "r1-gate-up-8-rows": moe(8, 256, 7168, 2048, 2),
    "r1-gate-up-8192-rows": moe(8192, 32, 7168, 2048, 2),
    "r1-gate-up-int8": moe(512, 32, 7168, 2048, 2, INT8),
    "r1-down-int8": moe(8192, 32, 2048, 7168, 1, INT8),
    "r1-decode-1": pages(1, 128, 576, LATENTS, 512),
    "r1-decode-64-padded": pages(64, 128, 640, LATENTS, 512),
    "r1-decode-float32": pages(4, 128, 576, (61, 200, 64, 576), 512, F32),
    "llama-8b-decode": pages(8, 32, 128, (32, 1000, 8, 64, 256)),
    "qwen-1.5b-decode": pages(64, 12, 128, (28, 1000, 2, 64, 256)),
    "head-64-decode": pages(1, 14, 64, (24, 1000, 2, 16, 128)),
    "r1-prefill": chunks(128, 128, 4096, 8192, 192, 128),
    "r1-prefill-float32": chunks(16, 16, 512, 512, 192, 128, F32),
    "llama-8b-prefill": chunks(32, 8, 2048, 4096, 128, 128),
    "qwen-7b-short-chunk": chunks(28, 4, 32, 4096, 128, 128),
}


@pytest.fixture
def modules(monkeypatch):
    """Collects the Triton modules, which JAX hands on without verifying them."""
    lowering = pytest.importorskip("jax._src.pallas.triton.lowering")
    lower, seen = lowering.lower_jaxpr_to_triton_module, []

    def keep(*args, **kwargs):
        seen.append(lower(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(lowering, "lower_jaxpr_to_triton_module", keep)
    return seen


@pytest.mark.parametrize("name", REAL)
def test_real_shapes_lower_for_cuda(modules, name):
    call, shapes, needed = REAL[name]
    jax.clear_caches()
    lowered = jax.jit(call).trace(*shapes).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()
    assert [result.module.operation.verify() for result in modules] == [True]
    assert needed <= 160 * 2**10


def test_cudnn_attention_lowers_for_cuda(monkeypatch):
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    call, (q, k, v, _, length), _ = chunks(32, 8, 2048, 2048, 128, 128)
    jax.clear_caches()
    lowered = (
        jax.jit(lambda q, k, v, n: call(q, k, v, None, n))
        .trace(q, k, v, length)
        .lower(lowering_platforms=("cuda",))
    )
    assert "cudnn$fmha" in lowered.as_text()
    assert "triton" not in lowered.as_text()


def test_what_shared_memory_cannot_hold_is_refused():
    big = grouped.Blocks(256, 128, 256, 8, 4)
    call = functools.partial(grouped.grouped_matmul, blocks=big)
    with pytest.raises(ConfigError, match="524,288 bytes of shared memory"):
        jax.eval_shape(call, *moe(512, 32, 2048, 7168)[1])
    call, shapes, _ = pages(1, 128, 576, LATENTS, 512)
    wide = paged.Blocks(128, 64, 1, 8, 3)
    with pytest.raises(ConfigError, match="bytes of shared memory"):
        jax.eval_shape(functools.partial(call, blocks=wide), *shapes)
    call, shapes, _ = chunks(128, 128, 4096, 8192, 192, 128)
    with pytest.raises(ConfigError, match="bytes of shared memory"):
        jax.eval_shape(
            functools.partial(call, blocks=prefill.Blocks(256, 128, 8, 3)), *shapes
        )


def test_bytes_that_signed_offsets_miss_are_refused():
    with pytest.raises(ConfigError, match="cannot address 2,348,810,240 one-byte"):
        jax.eval_shape(grouped.grouped_matmul, *moe(512, 160, 2048, 7168, 1, INT8)[1])


@pytest.mark.parametrize("kind", ["decode", "mixed"])
@pytest.mark.parametrize("case", [GQA[0], MLA[0]], ids=lambda c: c.name)
def test_the_paged_kernels_doors_lead_to_triton(case, kind):
    door = getattr(gqa_attention if case.kv_heads else mla_attention, kind)
    width = {} if case.kv_heads else {"value_width": case.value_width}
    call = functools.partial(door, scale=0.1, backend=Backend("gpu"), **width)
    shapes = dataclasses.replace(case, kind=kind, tokens=0).arguments()
    text = jax.jit(call).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text
    assert "paged_decode" in text


def test_the_door_of_long_chunks_leads_to_triton():
    case = next(c for c in FLASH if c.shared)
    call = functools.partial(
        flash_prefill, scale=case.scale, backend=Backend("gpu"), partial=True
    )
    names = ("q", "k", "v", "k_rope")
    shapes = dict(zip(names, case.arguments(), strict=True))
    traced = jax.jit(call).trace(**shapes, prefix=SCALAR, length=SCALAR, keys=SCALAR)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text
