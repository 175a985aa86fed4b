"""Causal attention of a chunk, beside the two kernels that ship inside JAX."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from tpu_bundles import Region
from tpu_compile import Comparison, Passes, Program
from tpu_kernels.causal_peers import flash, splash
from tpu_kernels.grid import STAGES, fetches

from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.flash_prefill import Blocks, flash_prefill
from r1jax.pallas.flash_prefill.blocks import choose
from r1jax.pallas.flash_prefill.cases import CASES, Case

_GOAL = 1.15
# The goal's shape, a model behind a prefix, and grouped heads.
_COMPARED = ("goal-4096", "r1-tensor8-2048-behind-4096", "llama8b-tensor4-2048")


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields every case, and the peers beside those that stand for the others."""
    for case in CASES:
        is_compared = case.name in _COMPARED
        yield Comparison(
            "flash_prefill",
            case.name,
            case.flops,
            "bfloat16",
            ours(case, chip),
            [*flash(case), *splash(case)] if is_compared else [],
            _GOAL if is_compared else None,
        )


def ours(case: Case, chip: Chip, blocks: Blocks | None = None) -> Program:
    """Returns our kernel, by the table's blocks if none are given."""
    lanes = -(-case.width // 128) * 128
    blocks = blocks or choose(case.queries, case.keys, lanes, chip)

    def call(
        prefix: Any, length: Any, q: Any, k: Any, v: Any, k_rope: Any = None
    ) -> Any:
        return flash_prefill(
            *(q, k, v),
            k_rope=k_rope,
            prefix=prefix,
            length=length,
            scale=case.scale,
            backend=Backend("tpu", chip),
            blocks=blocks,
        )

    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    return Program(
        "r1jax",
        "flash_prefill",
        call,
        (scalar, scalar, *case.arguments()),
        _passes(case, blocks),
        _moved(case, blocks),
        f"q {blocks.q} k {blocks.k} part {blocks.part}",
    )


def _steps(case: Case, blocks: Blocks) -> list[tuple[int, int]]:
    """Lists the grid's steps of one head: queries, chunk of keys."""
    rows, chunks = case.queries // blocks.held_q, -(-case.keys // blocks.held_k)
    return [(t, c) for t in range(rows) for c in range(chunks)]


def _passes(case: Case, blocks: Blocks) -> Passes:
    """Counts what a whole chunk runs.

    The grid's loop holds a loop that clears queries that are not real (none here) and,
    under `pl.when`, the loop over blocks of queries. In that one lie two loops over
    blocks of keys, without a mask and with it; the last block is in the loop's own
    body. Where keys come in chunks three branches lie there too: what an earlier chunk
    left, the finished results, what is left for the next chunk.
    """
    size, held = blocks.k, blocks.held_k
    begun = visits = plain = masked = resumed = finished = left = 0
    for t, c in _steps(case, blocks):
        start = case.prefix + t * blocks.held_q - c * held
        live = blocks.held_q // blocks.q
        first = min(max(-start, 0) // blocks.q, live)
        begun += first < live
        for i in range(first, live):
            end = start + (i + 1) * blocks.q
            seen = min(max(-(-end // size), 1), held // size)
            whole = min(max((start + i * blocks.q + 1) // size, 1), seen)
            visits, plain, masked = visits + 1, plain + whole - 1, masked + seen - whole
            resumed, finished, left = resumed + (c > 0), finished + (end <= held), left
            left += end > held
    steps = len(_steps(case, blocks))

    def passes(regions: Sequence[Region]) -> list[int | None]:
        n = case.heads
        loops = [i for i, region in enumerate(regions) if region.kind == "loop"]
        inner = [plain, masked] if len(loops) == 5 else [plain + masked]
        if len(loops) == 4 and plain + masked and held > size:
            raise ValueError("one loop over keys where two are expected")
        each = [steps + STAGES / n, 0, visits, *inner]
        counts: list[int | None] = [None] * len(regions)
        for i, count in zip(loops, each, strict=True):
            counts[i] = round(count * n)
        queries = loops[2]
        branches = [
            i
            for i, region in enumerate(regions)
            if region.kind == "branch" and region.parent == queries
        ]
        often = [resumed, finished, left] if branches else []
        for i, count in zip(branches, often, strict=True):
            counts[i] = count * n
        begin = regions[queries].parent
        if begin is not None and regions[begin].kind == "branch":
            counts[begin] = begun * n
        return counts

    return passes


def _moved(case: Case, blocks: Blocks) -> int:
    """Adds up queries, results, and keys and values as their index maps bring them."""
    group = case.heads // case.kv_heads
    steps = _steps(case, blocks)
    grid = (case.heads, len(steps))

    def chunk(step: int) -> int:
        t, c = steps[step]
        last = (case.prefix + (t + 1) * blocks.held_q - 1) // blocks.held_k
        return min(c, last)

    item = 2
    own = fetches(grid, lambda n, step: (n // group, chunk(step)))
    keys = own * blocks.held_k * (case.width - case.shared + case.values)
    lanes = 128 if case.shared else 0
    keys += fetches(grid, lambda n, step: chunk(step)) * blocks.held_k * lanes
    width = case.width - case.shared + lanes
    return item * (keys + case.heads * case.queries * (width + case.values))
