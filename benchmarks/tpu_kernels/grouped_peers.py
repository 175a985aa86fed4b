"""Grouped products as they ship with JAX: megablox's `gmm` and XLA's `ragged_dot`.

Both are one kernel, with a grid of blocks of columns, visits (a block of rows that an
expert owns some of) and blocks of terms; `ragged_dot`'s is written by XLA, which takes
its tiling from an attribute. Neither knows scales. What one scale a column costs after
them is not counted but for the scales' own bytes; nor is silu(gate) * up. `gmm` takes
bfloat16 alone, and XLA some stored weights on some chips; for others theirs are
bfloat16, widened once and kept, which is not counted either.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.tpu.megablox import gmm
from jax.experimental.xla_metadata import set_xla_metadata
from tpu_bundles import Region
from tpu_compile import Passes, Program
from tpu_kernels.grid import STAGES, fetches

from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import FORMS, LANES
from r1jax.pallas.grouped_matmul.cases import Case

Tiling = tuple[int, int, int]  # rows, terms, columns
_ITEM = 2
# What blocks may take. Neither peer asks for more VMEM than a kernel has, 16 MiB on v5e
# and 32 on the others. Part of it goes to what is spilled, least on v7x, where sums are
# not in registers.
_MIB = 2**20
_VMEM = {"v5e": 0.92 * 16 * _MIB, "v6e": 0.92 * 32 * _MIB, "v7x": 1.02 * 32 * _MIB}
_LOW, _USUAL, _HIGH = 32, 256, 512  # rows
_SLACK = 1.25
# Stored weights with one scale a column that XLA's kernel reads as they lie. (On the
# other chips it converts all of them to float32 first; int4 it refuses.)
_DIRECT = {("int8", "v5e"), ("int8", "v6e"), ("fp8", "v7x")}


def peers(case: Case, chip: Chip) -> Iterator[Program]:
    """Yields both for bfloat16, else XLA's, each with several tilings."""
    direct = (case.form, chip.name) in _DIRECT
    dtype = jnp.dtype(FORMS[case.form].dtype if direct else jnp.bfloat16)
    tilings = _tilings(case, chip, dtype)
    for tiling in tilings if case.form == "bfloat16" else []:
        yield _program("megablox gmm", "gmm", _gmm(tiling), case, tiling, dtype)
    for tiling in tilings:
        call = _ragged(tiling)
        yield _program("ragged_dot", "ragged-dot-none", call, case, tiling, dtype)


def _tilings(case: Case, chip: Chip, dtype: Any) -> list[Tiling]:
    """Lists blocks with all terms or half of them, as wide as VMEM allows.

    Left out are those that move so much that others of the list must be better.
    """
    columns, item = case.gates * case.columns, jnp.dtype(dtype).itemsize
    mean = pl.next_power_of_2(-(-case.rows // case.experts))
    heights = {min(max(n, _LOW), _HIGH) for n in (mean // 2, mean)} | {_USUAL}
    tilings = []
    for rows in sorted(heights) if case.rows > _LOW * 2 else [case.rows]:
        for terms in (case.depth, case.depth // 2):
            fits = [
                n
                for n in range(2 * LANES, columns + 1, LANES)
                if columns % n == 0 and _kept(rows, terms, n, item) <= _VMEM[chip.name]
            ]
            tilings += [(rows, terms, n) for n in fits[-1:]]
    moved = [_moved(case, _visits(case, t[0]), t, item) for t in tilings]
    computing = case.flops() / chip.peak["bfloat16"] * chip.bandwidth
    most = _SLACK * max(computing, min(moved))
    return [t for t, size in zip(tilings, moved, strict=True) if size <= most]


def _kept(rows: int, terms: int, columns: int, item: int) -> int:
    """Adds up two copies of each block, and the sums."""
    moved = rows * terms * _ITEM + terms * columns * item + rows * columns * _ITEM
    return 2 * moved + 4 * rows * columns


def _gmm(tiling: Tiling) -> Callable[..., Any]:
    return lambda rows, sizes, w: gmm(rows, w, sizes, jnp.bfloat16, tiling)


def _ragged(tiling: Tiling) -> Callable[..., Any]:
    def call(rows: Any, sizes: Any, w: Any) -> Any:
        with set_xla_metadata(ragged_dot_tiling=",".join(map(str, tiling))):
            return jax.lax.ragged_dot(
                rows, w, sizes, preferred_element_type=jnp.bfloat16
            )

    return call


def _program(
    who: str,
    kernel: str,
    call: Callable[..., Any],
    case: Case,
    tiling: Tiling,
    dtype: Any,
) -> Program:
    columns = case.gates * case.columns
    weights = jax.ShapeDtypeStruct((case.experts, case.depth, columns), dtype)
    visits = _visits(case, tiling[0])
    moved = _moved(case, visits, tiling, weights.dtype.itemsize)
    if dtype != jnp.bfloat16:
        moved += 4 * min(case.rows, case.experts) * columns
    size = "x".join(map(str, tiling))
    return Program(
        who,
        kernel,
        call,
        (*case.arguments()[:2], weights),
        _passes(len(visits) * (columns // tiling[2]), case.depth // tiling[1]),
        moved,
        f"{size} of {weights.dtype.name}",
    )


def _visits(case: Case, rows: int) -> list[tuple[int, int]]:
    """Lists expert and block of rows, in the kernels' order."""
    visits, start = [], 0
    for expert, size in enumerate(case.sizes()):
        last = -(-(start + size) // rows) if size else start // rows
        visits += [(expert, block) for block in range(start // rows, last)]
        start += size
    return visits


def _moved(
    case: Case, visits: Sequence[tuple[int, int]], tiling: Tiling, item: int
) -> int:
    """Adds up the blocks that the index maps bring and take."""
    rows, terms, columns = tiling
    grid = (case.gates * case.columns // columns, len(visits), case.depth // terms)
    x = fetches(grid, lambda f, v, k: (visits[v][1], k))
    w = fetches(grid, lambda f, v, k: (visits[v][0], k, f))
    out = fetches(grid, lambda f, v, k: (visits[v][1], f))
    return _ITEM * rows * (x * terms + out * columns) + w * terms * columns * item


def _passes(visits: int, parts: int) -> Passes:
    """Returns passes of a grid's loop with one product, or two if terms come in parts.

    The two largest branches are the product with a store, for the last part, and the
    one without; beside them the sums are cleared for the first.
    """

    def passes(regions: Sequence[Region]) -> list[int | None]:
        loops = [i for i, region in enumerate(regions) if region.kind == "loop"]
        if loops != [0]:
            raise ValueError(f"one loop over the grid is expected, not {len(loops)}")
        counts: list[int | None] = [None] * len(regions)
        counts[0] = visits * parts + STAGES
        by_size = sorted(range(1, len(regions)), key=lambda i: -regions[i].bundles)
        store, *rest = by_size
        counts[store] = visits
        if parts == 1:
            return counts
        counts[rest[0]] = visits * (parts - 1)
        for i in rest[1:]:
            if regions[i].parent == regions[store].parent:
                counts[i] = visits
        return counts

    return passes
