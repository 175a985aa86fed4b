"""Block sizes by rule.

Few rows: a step's block of weights is a few MiB, enough to hide a step's start, and two
of them leave room for the rows. Many: a tile's product is as long a run of bundles as
`_BODY` allows, whole sums first, then columns, because each run fills the matrix units
and empties them again, and because rows are read once for each block of columns. Rows:
all of them where they fit, so that they are read once. A tile as tall as the rows of
an expert keeps the matrix units busy with few rows computed for nothing.
"""

from typing import Any

import jax
from jax.experimental import pallas as pl

from r1jax.errors import ConfigError
from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import LANES, Scaling, chunk
from r1jax.pallas.grouped_matmul.kernel import ALIGNED, Blocks, buffers

# Up to here every row meets every used expert: loading the weights into the matrix
# units takes longer than the rows do.
FEW = 64
_TILE, _REST = 512, 64
# Where an expert has so few rows, less than a `_REST` is multiplied at once.
_SCARCE = 16
# Rows in a step, and with many rows the least columns. Columns are cut in two or more,
# and there are some steps at least: the first one's copy hides behind nothing.
_ROWS = 1024
_COLUMNS, _STEPS = 512, 16
# Bundles of a tile's product. The code for it is written twice, for whole tiles and for
# the rest. On v6e alone bundles bind where this is 8,192. v5p's rates are those of two
# cores, and a kernel's code fills the matrix units of one.
_BODY = {"v5e": 8192, "v5p": 4096, "v6e": 16384, "v7x": 8192}
# With few rows, the weights' bytes to aim at in a step. A step's own bundles, about
# 350, must be few beside its copy; the first step's copy hides behind nothing.
_MIB = 2**20
_BYTES = {"v5e": 4 * _MIB, "v5p": 4 * _MIB, "v6e": 4 * _MIB, "v7x": 8 * _MIB}


def choose(
    rows: Any, experts: int, weights: Any, scales: Any, kind: Scaling | None, chip: Chip
) -> Blocks:
    """Returns sizes for rows [M, D] of `experts` and weights [.., G, D, F]."""
    count, depth = rows.shape
    gates, columns = weights.shape[1], weights.shape[-1]
    # Products of a tile; a scale's block may fill but a part of a matrix unit's depth.
    products = _BODY[chip.name] * chip.peak["bfloat16"] / chip.clock / 2
    products *= min(1.0, (kind.depth if kind else depth) / chip.mxu_width)
    held, tile, rest = _heights(count, experts, gates * depth, products, chip)
    if tile <= FEW:
        strip = gates * depth * LANES * jax.dtypes.itemsize_bits(weights.dtype) // 8
        most = LANES * (_BYTES[chip.name] // strip)
        most = max(most, LANES if count <= FEW else _COLUMNS)
    else:
        strips = max(2, pl.cdiv(_STEPS, max(experts, pl.cdiv(count, held))))
        most = min(int(products) // (tile * gates * depth), columns // strips)
        most = max(most, _COLUMNS)
    wide = _divide(columns, most)
    # Loading weights into a matrix unit takes as long as half its width in rows.
    area = max(tile, chip.mxu_width // 2) * gates * wide
    blocks = Blocks(held, tile, rest, wide, chunk(depth, kind, int(products) // area))
    limit = 0.8 * chip.vmem_bytes
    while sum(buffers(rows, weights, scales, kind, blocks).values()) > limit:
        if blocks.columns > 2 * LANES or blocks.rows <= 4 * ALIGNED:
            if blocks.columns <= LANES:
                break
            blocks = blocks._replace(columns=_divide(columns, blocks.columns // 2))
        else:
            held = _round_up(blocks.rows // 2, ALIGNED)
            tile = min(blocks.tile, held)
            blocks = blocks._replace(rows=held, tile=tile, rest=min(blocks.rest, tile))
    return blocks


def _heights(
    count: int, experts: int, terms: int, products: float, chip: Chip
) -> tuple[int, int, int]:
    """Returns the rows of a step, of a tile, and of the tiles for what is left."""
    if count <= FEW:
        return count, count, count
    held = min(_round_up(count, ALIGNED), _ROWS)
    mean = pl.next_power_of_2(pl.cdiv(count, experts))
    least = _REST if mean > _SCARCE else 2 * _SCARCE
    tile = min(max(mean, least), _TILE, held)
    if tile * terms * 2 * _COLUMNS > products:
        tile = min(tile, _TILE // 2)
    return held, tile, min(tile, max(_REST, min(tile, chip.mxu_width) // 2))


def check(blocks: Blocks, rows: Any, weights: Any, kind: Scaling | None) -> None:
    """Refuses sizes that the kernel cannot work with.

    Raises:
      ConfigError: Says which size and what it must divide.
    """
    count, depth = rows.shape
    columns = weights.shape[-1]
    step = depth if kind is None else kind.depth
    whole = blocks.tile == blocks.rows
    positive = all(size > 0 for size in blocks)
    rules = {
        "every size is 1 or more": positive,
        "rows is all of them or a multiple of 16": (
            blocks.rows == count or blocks.rows % ALIGNED == 0
        ),
        "tile is rows, or all three are multiples of 16 and rest <= tile < rows": (
            whole
            or (
                not any(n % ALIGNED for n in (blocks.rows, blocks.tile, blocks.rest))
                and blocks.rest <= blocks.tile < blocks.rows
            )
        ),
        "columns is all of them or a multiple of 128": (
            blocks.columns == columns or blocks.columns % LANES == 0
        ),
        "chunk divides D, in multiples of 128 and of a scale's block": (
            blocks.chunk == depth
            or (
                positive
                and depth % blocks.chunk == 0
                and blocks.chunk % LANES == 0
                and (step == depth or blocks.chunk % step == 0)
            )
        ),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ConfigError(
            f"grouped_matmul cannot work with {blocks} on rows {rows.shape} and "
            f"weights {weights.shape}",
            "; ".join(broken),
            "leave `blocks` out, or choose others",
        )


def _divide(columns: int, most: int) -> int:
    """Returns a block of columns: the largest multiple of 128 that divides them."""
    fits = [c for c in range(LANES, most + 1, LANES) if columns % c == 0]
    if fits and 2 * fits[-1] > most:
        return fits[-1]
    return min(most, columns)


def _round_up(value: int, step: int) -> int:
    return pl.cdiv(value, step) * step
