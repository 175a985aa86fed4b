"""Grouped-query attention over pages, beside the one that ships inside JAX."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import (
    ragged_paged_attention,
)
from tpu_bundles import Region
from tpu_compile import Comparison, Passes, Program
from tpu_kernels.grid import STAGES
from tpu_kernels.paged import SCALE, counts_of, ours

from r1jax.pallas.chips import Chip
from r1jax.pallas.gqa_attention.cases import CASES
from r1jax.pallas.paged.cases import Case

_GOAL = 1.0
# Pages of a block, queries of a block.
_DECODE = ((4, 1), (8, 1), (16, 1), (4, 8), (8, 8), (16, 8), (8, 32), (16, 32))
_MIXED = ((4, 16), (4, 32), (8, 32), (4, 64), (8, 64), (16, 64), (4, 128), (8, 128))
_COMPARED = (
    "llama-8b-tensor4-decode",
    "llama-8b-tensor4-decode-8x8192",
    "llama-8b-decode",
    "llama-70b-tensor8-decode",
    "qwen-1.5b-decode",
    "qwen-7b-tensor4-decode",
    "qwen-14b-tensor8-decode",
    "llama-8b-tensor4-decode-fp8",
    "llama-8b-tensor4-mixed-512+8",
    "llama-70b-tensor8-mixed-512+8",
)


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields every case, and the peer beside some of them."""
    for case in CASES:
        is_compared = case.name in _COMPARED
        yield Comparison(
            "gqa_attention",
            case.name,
            case.flops,
            "bfloat16",
            ours(case, chip),
            list(ragged_paged(case, chip)) if is_compared else [],
            _GOAL if is_compared else None,
            "our kernel writes the new keys and values too; the peer's only reads, and "
            "behind + is what XLA's scatter of them issues",
        )


def ragged_paged(case: Case, chip: Chip) -> Iterator[Program]:
    """Yields ragged paged attention behind a scatter of the new keys and values.

    It reads the cache and does not write it, as our kernel does: that is left to XLA.
    """
    tokens = case.tokens or case.rows
    a: Any = jax.ShapeDtypeStruct
    pages = (1 + case.rows * case.pages, case.page, 2 * case.kv_heads, case.width)
    dtype = jnp.dtype(case.dtype)
    shapes = [
        a((tokens, *pages[2:]), dtype),
        *[a((tokens,), jnp.int32)] * 2,
        a((tokens, case.heads, case.width), jnp.bfloat16),
        a(pages, dtype),
        *(a(s, jnp.int32) for s in ((case.rows,), (case.rows, case.pages))),
        *(a(s, jnp.int32) for s in ((case.rows + 1,), (1,))),
    ]
    scales = {} if case.dtype == "bfloat16" else {"k_scale": 0.5, "v_scale": 0.5}
    for number, queries in _MIXED if case.kind == "mixed" else _DECODE:
        if queries > tokens:
            continue
        attend = functools.partial(
            ragged_paged_attention,
            sm_scale=SCALE,
            num_kv_pages_per_block=number,
            num_queries_per_block=queries,
            vmem_limit_bytes=int(0.9 * chip.vmem_bytes),
            **scales,
        )

        def step(
            new: Any,
            page: Any,
            slot: Any,
            q: Any,
            pages: Any,
            *rest: Any,
            f: Any = attend,
        ) -> Any:
            pages = pages.at[page, slot].set(new)
            return f(q, pages, *rest), pages

        visits = _visits(case, queries)
        blocks = visits * -(-case.context // (number * case.page))
        moved = blocks * number * case.page * case.entry_bytes
        moved += 2 * 2 * tokens * case.heads * case.width
        steps = -(-tokens // queries)
        yield Program(
            "ragged_paged_attention",
            "ragged_paged_attention",
            step,
            shapes,
            _passes(steps, visits, blocks),
            moved,
            f"keys {number * case.page} queries {queries}",
            donate=(4,),
            before=(("scatter", _scattered(tokens)),),
        )


def _scattered(tokens: int) -> Passes:
    """Counts XLA's scatter of rows, 16 in a pass of its innermost loop."""

    def passes(regions: Sequence[Region]) -> list[int | None]:
        return [None] * (len(regions) - 1) + [-(-tokens // 16)]

    return passes


def _visits(case: Case, queries: int) -> int:
    """Counts pairs of a block of queries and a sequence in it, the chunk first."""
    counts = [1] * case.rows if case.kind == "decode" else counts_of(case)[::-1]
    visits, start = 0, 0
    for count in counts:
        visits += (start + count - 1) // queries - start // queries + 1
        start += count
    return visits


def _passes(steps: int, visits: int, blocks: int) -> Passes:
    """Counts the grid over blocks of queries, sequences in them, blocks of keys."""

    def passes(regions: Sequence[Region]) -> list[int | None]:
        counts: list[int | None] = [None] * len(regions)
        loops = [i for i, r in enumerate(regions) if r.kind == "loop"]
        if steps > 1:
            counts[loops.pop(0)] = steps + STAGES
        free = [i for i in loops if regions[i].limit is None]
        for i, count in zip(free, (visits, blocks), strict=True):
            counts[i] = count
        for i in range(free[0]):
            if regions[i].kind == "branch" and regions[i + 1].depth <= regions[i].depth:
                counts[i] = 1  # asks for the first block
        return counts

    return passes
