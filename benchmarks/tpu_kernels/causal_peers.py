"""Causal attention as it ships inside JAX: flash attention and splash attention."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, flash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from tpu_bundles import Region
from tpu_compile import Passes, Program
from tpu_kernels.grid import STAGES, fetches

from r1jax.pallas.flash_prefill.cases import Case

_ITEM = 2
# Queries, keys in VMEM, keys computed at once. 128 each is flash attention's default.
_FLASH = (
    (128, 128, 128),
    (512, 512, 512),
    (512, 1024, 512),
    (512, 2048, 512),
    (1024, 512, 512),
    (1024, 1024, 512),
    (1024, 1024, 1024),
)
_SPLASH = (
    (512, 512, 512),
    (512, 1024, 512),
    (512, 1024, 1024),
    (512, 2048, 512),
    (1024, 1024, 512),
    (1024, 2048, 512),
    (2048, 1024, 512),
)


def flash(case: Case) -> Iterator[Program]:
    """Yields flash attention where it has the case: one head of keys a head, no prefix.

    Its values are as wide as its keys.
    """
    if case.prefix or case.heads != case.kv_heads or case.width != case.values:
        return
    shape = (1, case.heads, case.queries, case.width)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 3
    for q, held, k in _FLASH:
        if case.queries % max(q, held):
            continue
        sizes = BlockSizes(q, held, k, 1)

        def call(*arrays: Any, sizes: BlockSizes = sizes) -> Any:
            return flash_attention(
                *arrays, causal=True, sm_scale=case.scale, block_sizes=sizes
            )

        blocks = case.queries // held
        seen = [min(-(-(i + 1) * q // held), blocks) for i in range(case.queries // q)]
        grid = (case.heads, len(seen), blocks)
        keys = fetches(grid, _visible(seen, 1))
        rows = 2 * case.heads * case.queries
        yield Program(
            "flash_attention",
            "flash_attention",
            call,
            shapes,
            _pipeline(grid, grid[0] * sum(seen)),
            _ITEM * case.width * (2 * keys * held + rows),
            f"q {q} k {held}/{k}",
        )


def splash(case: Case) -> Iterator[Program]:
    """Yields splash attention, whose grid knows the mask and skips what is hidden."""
    q_shape, k_shape = (
        (heads, tokens, case.width)
        for heads, tokens in (
            (case.heads, case.queries),
            (case.kv_heads, case.keys),
        )
    )
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in (q_shape, k_shape, (*k_shape[:2], case.values))
    ]
    mask = splash_attention_mask.MultiHeadMask(
        [
            splash_attention_mask.CausalMask(
                (case.queries, case.keys), offset=case.prefix
            )
        ]
        * case.heads
    )
    for q, held, k in _SPLASH:
        if case.queries % q or case.keys % held:
            continue
        sizes = splash_attention_kernel.BlockSizes(
            block_q=q, block_kv=held, block_kv_compute=k
        )

        def call(*arrays: Any, sizes: Any = sizes) -> Any:
            attend = splash_attention_kernel.make_splash_mha_single_device(
                mask, block_sizes=sizes
            )
            return attend(arrays[0] * case.scale, *arrays[1:])

        blocks = case.keys // held
        seen = [
            min(-(-(case.prefix + (i + 1) * q) // held), blocks)
            for i in range(case.queries // q)
        ]
        grid = (case.heads, len(seen), blocks)
        keys = fetches(grid, _visible(seen, case.heads // case.kv_heads))
        rows = case.heads * case.queries
        yield Program(
            "splash_attention",
            "splash_mha_fwd",
            call,
            shapes,
            _pipeline(grid, grid[0] * sum(seen)),
            _ITEM * (keys * held + rows) * (case.width + case.values),
            f"q {q} k {held}/{k}",
        )


def _visible(seen: Sequence[int], group: int) -> Callable[..., object]:
    """Returns which block of keys a step brings: one not seen, the next row's first."""
    return lambda n, i, j: (n // group, j if j < seen[i] else 0)


def _pipeline(grid: Sequence[int], runs: int) -> Passes:
    """Returns passes of a grid's loop whose steps begin, run and end under `pl.when`.

    The last axis is the one over keys: a row begins at its first step and ends at its
    last. The largest branch is the one that computes.
    """
    rows = grid[0] * grid[1]

    def passes(regions: Sequence[Region]) -> list[int | None]:
        branches = [i for i, region in enumerate(regions) if region.kind == "branch"]
        run = max(branches, key=lambda i: regions[i].bundles)
        inside = [i for i in branches if regions[i].parent == regions[run].parent]
        counts: list[int | None] = [None] * len(regions)
        for i in inside:
            counts[i] = runs if i == run else rows
        counts[0] = rows * grid[2] + STAGES
        return counts

    return passes
