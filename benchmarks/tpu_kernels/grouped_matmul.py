"""Rows times their expert's matrix, beside megablox's `gmm` and XLA's `ragged_dot`."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tpu_bundles import Region
from tpu_compile import Comparison, Passes, Program
from tpu_kernels.grid import STAGES, fetches
from tpu_kernels.grouped_peers import peers

from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import FORMS, Scaling
from r1jax.pallas.grouped_matmul import Blocks, grouped_matmul
from r1jax.pallas.grouped_matmul.blocks import choose
from r1jax.pallas.grouped_matmul.cases import CASES, Case
from r1jax.pallas.grouped_matmul.items import Items, work_items
from r1jax.pallas.grouped_matmul.kernel import ALIGNED

_ITEM = 2
# Rows, and how many times a peer's floor is at least aimed at there.
_FEW, _GOAL_FEW = 64, 2.0
_MANY, _GOAL_MANY = 1024, 1.0


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields every case."""
    for case in CASES:
        goal = _GOAL_MANY if case.rows >= _MANY else None
        yield Comparison(
            "grouped_matmul",
            case.name,
            case.flops(),
            "bfloat16",
            ours(case, chip),
            list(peers(case, chip)),
            _GOAL_FEW if case.rows <= _FEW else goal,
        )


def ours(case: Case, chip: Chip, blocks: Blocks | None = None) -> Program:
    """Returns our kernel, by the rule's blocks if none are given.

    Gate and up are given as [E, 2, D, F], as XLA lays out [E, D, 2, F] of one byte or
    less; bfloat16 must be placed so, or it is copied.
    """
    rows, sizes, _, scales = case.arguments()
    held = _held(case)
    if blocks is None:
        blocks = choose(rows, case.experts, held.weights, held.scales, held.kind, chip)

    def call(rows: Any, sizes: Any, weights: Any, *scales: Any) -> Any:
        return grouped_matmul(
            rows,
            sizes,
            jnp.swapaxes(weights, 1, 2) if case.fused else weights[:, 0],
            scales=scales[0] if scales else None,
            fused=case.fused,
            backend=Backend("tpu", chip),
            blocks=blocks,
        )

    known = [] if scales is None else [scales]
    return Program(
        "r1jax",
        "grouped_matmul",
        call,
        (rows, sizes, held.weights, *known),
        _passes(case, blocks),
        _moved(case, held, blocks),
        "/".join(map(str, blocks)),
    )


class _Held(NamedTuple):
    """Weights and scales as the kernel sees them: [E, G, D, F], [E, G, ., .]."""

    weights: Any
    scales: Any
    kind: Scaling | None


def _held(case: Case) -> _Held:
    _, _, weights, scales = case.arguments()
    lead = (case.experts, case.gates)
    apart = jax.ShapeDtypeStruct((*lead, case.depth, case.columns), weights.dtype)
    scaling = FORMS[case.form].scaling
    if scales is None or scaling is None:
        return _Held(apart, None, None)
    kind = scaling._replace(depth=scaling.depth or case.depth)
    shape = (*lead, case.depth // kind.depth, -(-case.columns // kind.width))
    return _Held(apart, jax.ShapeDtypeStruct(shape, scales.dtype), kind)


def _items(case: Case, blocks: Blocks) -> Items:
    """Returns the real work items, every row of them an expert's."""
    sizes = np.array(case.sizes(), np.int32)
    items, real = work_items(sizes, case.rows, blocks.rows)
    return Items(*(np.asarray(column)[: int(real)] for column in items))


def _tiles(case: Case, blocks: Blocks) -> tuple[int, int]:
    """Counts the tiles of all items: whole ones and rests, as the kernel cuts them."""
    items = _items(case, blocks)
    if blocks.tile == blocks.rows:
        return len(items.low), 0
    start = items.low // ALIGNED * ALIGNED
    if blocks.tile == blocks.rest:
        return int((-(-(items.high - start) // blocks.tile)).sum()), 0
    whole = (items.high - start + blocks.rest - 1) // blocks.tile
    left = items.high - start - whole * blocks.tile
    return int(whole.sum()), int((-(-left // blocks.rest)).clip(0).sum())


def _passes(case: Case, blocks: Blocks) -> Passes:
    """Counts what a run does.

    The grid's loop holds a loop over whole tiles, one over what is left in smaller
    tiles, if the two heights differ, and one that clears rows that nobody owns (none
    here). Where rows are one tile there are no such loops but two branches, of which
    the larger multiplies. In a loop over tiles, or in that branch, lies the loop over
    passes, if there are several.
    """
    strips = -(-case.columns // blocks.columns)
    steps = strips * len(_items(case, blocks).low)
    parts = case.depth // blocks.chunk
    alone = blocks.tile == blocks.rows
    each = [strips * n for n in _tiles(case, blocks)]
    if alone or blocks.tile == blocks.rest:
        each.pop()
    expected = [steps + STAGES]
    for count in each:
        expected += [] if alone else [count]
        expected += [count * parts] if parts > 1 else []
    expected += [] if alone else [0]

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [i for i, region in enumerate(regions) if region.kind == "loop"]
        counts: list[int | None] = [None] * len(regions)
        for i, count in zip(loops, expected, strict=True):
            counts[i] = count
        if alone and parts == 1:
            counts[max(range(1, len(regions)), key=lambda i: regions[i].bundles)] = (
                steps
            )
        return counts

    return passes


def _moved(case: Case, held: _Held, blocks: Blocks) -> int:
    """Adds up rows, weights, scales and results as their index maps bring them."""
    items = _items(case, blocks)
    strips = -(-case.columns // blocks.columns)
    grid = (strips, len(items.low))
    rows = fetches(grid, lambda f, i: items.block[i]) * min(blocks.rows, case.rows)
    out = fetches(grid, lambda f, i: (f, items.block[i])) / strips
    used = fetches(grid, lambda f, i: (f, items.expert[i])) / strips
    bits = jax.dtypes.itemsize_bits(held.weights.dtype)
    matrix = case.depth * case.gates * case.columns * bits // 8
    moved = _ITEM * rows * case.depth + used * matrix
    moved += _ITEM * out * min(blocks.rows, case.rows) * case.columns
    if held.scales is not None and held.kind is not None:
        one = 4 * math.prod(held.scales.shape[1:])
        again = 1 if held.kind.width == 1 else strips
        moved += used * one * again
    return int(moved)
