"""Products with stored weights, beside what XLA makes of the same expression.

Where a column has one scale XLA writes one kernel, which widens weights as it goes. It
is not compared where there are several: for one row it multiplies, scales and turns
the row in three, and where blocks have scales it spreads these out first, and for fp8
copies the weights.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from tpu_bundles import Region
from tpu_compile import Comparison, Passes, Program
from tpu_kernels.grid import STAGES, fetches

from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import FORMS, Scaling
from r1jax.pallas.quant_matmul import Blocks, quant_matmul
from r1jax.pallas.quant_matmul.blocks import choose
from r1jax.pallas.quant_matmul.cases import CASES, Case

_ITEM = 2


def comparisons(chip: Chip) -> Iterator[Comparison]:
    """Yields every case."""
    for case in CASES:
        alone = _kind(case).depth == case.depth and case.rows > 1
        yield Comparison(
            "quant_matmul",
            case.name,
            case.flops(),
            "bfloat16",
            ours(case, chip),
            [_xla(case)] if alone else [],
        )


def ours(case: Case, chip: Chip, blocks: Blocks | None = None) -> Program:
    """Returns our kernel, by the rule's blocks if none are given."""
    x, weights, scales = case.arguments()
    kind, stacked = _kind(case), jax.eval_shape(lambda w: w[None], weights)
    if blocks is None:
        table = jax.ShapeDtypeStruct(_table(case), scales.dtype)
        blocks = choose(x, stacked, table, kind, chip)

    def call(x: Any, weights: Any, scales: Any) -> Any:
        backend = Backend("tpu", chip)
        return quant_matmul(x, weights, scales, backend=backend, blocks=blocks)

    return Program(
        "r1jax",
        "quant_matmul",
        call,
        (x, weights, scales),
        _passes(case, blocks),
        _moved(case, blocks),
        "/".join(map(str, blocks)),
    )


def _kind(case: Case) -> Scaling:
    scaling = FORMS[case.form].scaling
    assert scaling is not None  # no case is plain
    return scaling._replace(depth=scaling.depth or case.depth)


def _table(case: Case) -> tuple[int, int]:
    kind = _kind(case)
    return case.depth // kind.depth, -(-case.columns // kind.width)


def _grid(case: Case, blocks: Blocks) -> tuple[int, int]:
    return -(-case.columns // blocks.columns), -(-case.rows // blocks.rows)


def _passes(case: Case, blocks: Blocks) -> Passes:
    """Counts the grid's loop, and in it the loop over parts of the sum if it has any.

    If not, the largest branch multiplies. Loops that do not multiply are copies of a
    small weight that XLA has brought into VMEM before the kernel (and turned round
    where F is no multiple of 128): the first moves a step's weights, a register a
    store, and the others are for shapes that do not occur.
    """
    bits = jax.dtypes.itemsize_bits(FORMS[case.form].dtype)
    registers = case.depth * blocks.columns * bits // 8 // 4096
    strips, heights = _grid(case, blocks)
    steps, parts = strips * heights, case.depth // blocks.chunk

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [
            i
            for i, region in enumerate(regions)
            if region.kind == "loop" and (i == 0 or region.slots["MXU"])
        ]
        expected = [steps + STAGES, *([steps * parts] if parts > 1 else [])]
        counts: list[int | None] = [None] * len(regions)
        for i, count in zip(loops, expected, strict=True):
            counts[i] = count
        copies = [
            i for i, r in enumerate(regions) if r.kind == "loop" and i not in loops
        ]
        for i in copies:
            stores = regions[i].slots["VSTORE"]
            counts[i] = steps * -(-registers // stores) if i == copies[0] else 0
        if parts == 1:
            largest = max(regions[1:], key=lambda region: region.bundles)
            counts[regions.index(largest)] = steps
        return counts

    return passes


def _moved(case: Case, blocks: Blocks) -> int:
    """Adds up x, weights, scales and results as their index maps bring them."""
    grid = _grid(case, blocks)
    heights = fetches(grid, lambda f, t: t)
    x = heights * blocks.rows if grid[1] > 1 else case.rows
    bits = jax.dtypes.itemsize_bits(FORMS[case.form].dtype)
    weights = case.depth * case.columns * bits // 8
    values = x * case.depth + case.rows * case.columns
    return weights + _ITEM * values + 4 * math.prod(_table(case))


def _xla(case: Case) -> Program:
    """Returns the plain expression.

    Its kernel is one loop, of the steps and a few more, or none if there is one step.
    What lies under a further condition is the end of a sum whose terms come in parts,
    and is left out, in XLA's favour.
    """

    def call(x: Any, weights: Any, scales: Any) -> Any:
        wide = weights.astype(x.dtype)
        y = jnp.dot(x, wide, preferred_element_type=jnp.float32)
        return (y * scales).astype(x.dtype)

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [region for region in regions if region.kind == "loop"]
        if not loops:
            return [None] * len(regions)
        if len(loops) != 1 or loops[0].limit is None:
            raise ValueError(f"one loop of known length is expected, not {len(loops)}")
        counts: list[int | None] = [0] * len(regions)
        counts[regions.index(loops[0])] = loops[0].limit
        inside = [i for i, region in enumerate(regions) if region.parent == 0]
        for i in inside:
            counts[i] = loops[0].limit - STAGES
        return counts

    moved = case.bytes() + 4 * case.columns
    return Program("XLA", "fusion", call, case.arguments(), passes, moved)
