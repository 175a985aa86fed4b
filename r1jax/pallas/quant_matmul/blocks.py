"""Block sizes by rule: a step's weights are a few MiB, or an eighth of the matrix.

Fewer and larger steps cost less in themselves; but the first one's copy hides behind
nothing, so a small matrix is cut into several. A step's sum is finished in one pass
where that is not too much code: each pass fills the matrix units and empties them.
"""

from typing import Any

import jax
from jax.experimental import pallas as pl

from r1jax.errors import ConfigError
from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import LANES, Scaling, chunk
from r1jax.pallas.quant_matmul.kernel import Blocks, buffers

_MIB = 2**20
_BYTES = {"v5e": 3 * _MIB, "v5p": 4 * _MIB, "v6e": 4 * _MIB, "v7x": 8 * _MIB}
_STEPS = 8
# Rows in a step, and bundles of a pass.
_ROWS = 256
_BODY = 8192


def choose(
    x: Any, weights: Any, scales: Any, kind: Scaling | None, chip: Chip
) -> Blocks:
    """Returns sizes for x [T, D] and weights [L, D, F]."""
    count, depth = x.shape
    columns = weights.shape[-1]
    strip = depth * LANES * jax.dtypes.itemsize_bits(weights.dtype) // 8
    most = min(_BYTES[chip.name] // strip, columns // LANES // _STEPS)
    # With many rows the sums fill the registers; with few, more columns fill the units.
    strips = max(1 if strip * 4 > _BYTES[chip.name] else 2, most)
    # A chip's matrix units share the columns: a part of their width is time lost.
    units = 2 * chip.mxu_width // LANES
    if strips > units // 2:
        strips = max(1, (strips + units // 2) // units) * units
    wide = LANES * strips
    if kind is not None and kind.width > 1:  # whole blocks of scales, as `check` asks
        columns = pl.cdiv(columns, LANES) * LANES
    rows, wide = min(count, _ROWS), min(columns, wide)
    # Loading weights into a matrix unit takes as long as half its width in rows.
    area = max(rows, chip.mxu_width // 2) * wide
    products = _BODY * chip.peak["bfloat16"] / chip.clock / 2
    blocks = Blocks(rows, wide, chunk(depth, kind, int(products) // area))
    limit = 0.8 * chip.vmem_bytes
    while sum(buffers(x, weights, scales, kind, blocks).values()) > limit:
        if blocks.columns > LANES:
            half = pl.cdiv(blocks.columns // 2, LANES) * LANES
            blocks = blocks._replace(columns=half)
        elif blocks.rows >= 32:
            blocks = blocks._replace(rows=blocks.rows // 32 * 16)
        else:
            break
    return blocks


def check(blocks: Blocks, x: Any, weights: Any, kind: Scaling | None) -> None:
    """Refuses sizes that the kernel cannot work with.

    Raises:
      ConfigError: Says which size and what it must divide.
    """
    (count, depth), columns = x.shape, weights.shape[-1]
    step = depth if kind is None else kind.depth
    scaled = kind is None or kind.width == 1
    positive = all(size > 0 for size in blocks)
    rules = {
        "every size is 1 or more": positive,
        "rows is all of them or a multiple of 16": (
            blocks.rows == count or blocks.rows % 16 == 0
        ),
        "columns is all of them or a multiple of 128": (
            (blocks.columns == columns and scaled) or blocks.columns % LANES == 0
        ),
        "chunk is D, or divides it in multiples of 128 and of a scale's block": (
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
            f"quant_matmul cannot work with {blocks} on x {x.shape} and weights "
            f"{weights.shape[1:]}",
            "; ".join(broken),
            "leave `blocks` out, or choose others",
        )
