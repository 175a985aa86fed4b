"""Grouped matmul for TPUs: a step is one work item times one block of columns.

Columns vary slowest. Within a block of columns the items follow the rows' order, so an
expert's block of weights is read once, however many blocks of rows it meets, and the
next used expert's is read while this one multiplies. A step holds many rows, but
multiplies only the tiles in which its expert owns some: tiles begin at the expert's
first row, rounded down to what a packed register can address.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas import chips
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.dequant import Scaling, products, scale_bytes, scale_spec
from r1jax.pallas.grouped_matmul.items import Items, work_items
from r1jax.typing import Array

# A packed register of bfloat16 holds 16 rows.
ALIGNED = 16


class Blocks(NamedTuple):
    """The sizes a step works with.

    Attributes:
      rows: Held on the chip in a step.
      tile: Rows multiplied at once; all of `rows`, or a multiple of 16.
      rest: Rows multiplied at once where fewer than a tile are left.
      columns: Of the result, in a step.
      chunk: Terms of the sum in a pass of the main loop.
    """

    rows: int
    tile: int
    rest: int
    columns: int
    chunk: int


def grouped_matmul(
    rows: Array,
    sizes: Array,
    weights: Array,
    scales: Array | None,
    first: Array,
    *,
    kind: Scaling | None,
    blocks: Blocks,
    backend: Backend,
) -> Array:
    """Multiplies each expert's rows by its matrix.

    Args:
      rows: [M, D].
      sizes: int32 [E].
      weights: Matrices of all layers, [L E, G, D, F]; G is 2 for gate and up.
      scales: This layer's, [E, G, D / depth, F / width].
      first: Where this layer's matrices begin, an int32 scalar.
      kind: What shares a scale.
      blocks: Sizes.
      backend: "tpu" or "interpret".
    """
    count, depth = rows.shape
    gates, columns = weights.shape[1], weights.shape[-1]
    items, real = work_items(sizes, count, blocks.rows)
    limit = chips.fit(
        "grouped_matmul", buffers(rows, weights, scales, kind, blocks), _chip(backend)
    )

    def at_rows(f: Any, i: Any, expert: Any, block: Any, *_: Any) -> Any:
        del f, expert
        return block[i], 0

    def at_out(f: Any, i: Any, expert: Any, block: Any, *_: Any) -> Any:
        del expert
        return block[i], f

    def at_weights(gate: int, f: Any, i: Any, expert: Any, *others: Any) -> Any:
        return others[-1][0] + expert[i], gate, 0, f

    def at_scales(gate: int, f: Any, i: Any, expert: Any, *_: Any) -> Any:
        return expert[i], gate, 0, f

    weight_specs = [
        pl.BlockSpec(
            (None, None, depth, blocks.columns), functools.partial(at_weights, gate)
        )
        for gate in range(gates)
    ]
    scale_specs = [
        scale_spec(
            scales.shape, kind, blocks.columns, functools.partial(at_scales, gate)
        )
        for gate in range(gates if scales is not None and kind is not None else 0)
        if scales is not None and kind is not None
    ]
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=6,
        grid=(pl.cdiv(columns, blocks.columns), real),
        in_specs=[
            pl.BlockSpec((blocks.rows, depth), at_rows),
            *weight_specs,
            *scale_specs,
        ],
        out_specs=pl.BlockSpec((blocks.rows, blocks.columns), at_out),
        scratch_shapes=[
            pltpu.VMEM((tile, blocks.columns), jnp.float32)
            for tile in _tiles(blocks)
            for _ in range(gates)
        ],
    )
    interpret = pltpu.InterpretParams(detect_races=backend.detect_races)
    call = pl.pallas_call(
        functools.partial(
            _kernel, blocks=blocks, gates=gates, kind=kind, fp8=_chip(backend).fp8
        ),
        out_shape=jax.ShapeDtypeStruct((count, columns), rows.dtype),
        grid_spec=grid_spec,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=limit
        ),
        cost_estimate=cost(rows, len(sizes), weights, scales, blocks),
        interpret=interpret if backend.kind == "interpret" else False,
        name="grouped_matmul",
    )
    stored = [] if scales is None else [scales] * gates
    return call(*items, first.reshape(1), rows, *[weights] * gates, *stored)


def buffers(
    rows: Any, weights: Any, scales: Any, kind: Scaling | None, blocks: Blocks
) -> dict[str, int]:
    """Returns the bytes of a step in VMEM, the next step's blocks counted."""
    depth, gates = rows.shape[1], weights.shape[1]
    size = rows.dtype.itemsize
    bits = jax.dtypes.itemsize_bits(weights.dtype)
    scale = 0 if scales is None else scale_bytes(scales.shape, kind, blocks.columns)
    return {
        "rows": 2 * blocks.rows * depth * size,
        "weights": 2 * gates * depth * blocks.columns * bits // 8,
        "scales": 2 * gates * scale,
        "result": 2 * blocks.rows * blocks.columns * size,
        "sums": 4 * gates * sum(_tiles(blocks)) * blocks.columns,
    }


def cost(
    rows: Any, experts: int, weights: Any, scales: Any, blocks: Blocks
) -> pl.CostEstimate:
    """Returns the work, were every expert used that the rows could use."""
    count, depth = rows.shape
    gates, columns = weights.shape[1], weights.shape[-1]
    matrix = gates * depth * columns
    bits = jax.dtypes.itemsize_bits(weights.dtype)
    again = 1 if blocks.rows >= count else pl.cdiv(columns, blocks.columns)
    moved = count * (depth * again + columns) * rows.dtype.itemsize
    stored = matrix * bits // 8
    if scales is not None:
        stored += scales.size // experts * scales.dtype.itemsize
    return pl.CostEstimate(
        flops=2 * count * matrix,
        bytes_accessed=moved + min(experts, count) * stored,
        transcendentals=count * columns * (gates - 1),
    )


def _kernel(
    *refs: Any, blocks: Blocks, gates: int, kind: Scaling | None, fp8: str
) -> None:
    """Multiplies one item's rows by one block of columns."""
    items, x, refs = Items(*refs[:5]), refs[6], refs[7:]
    weights, refs = refs[:gates], refs[gates:]
    scales, refs = (refs[:gates], refs[gates:]) if kind else ((), refs)
    out, sums = refs[0], refs[1:]
    i = pl.program_id(1)
    low, high, owned = items.low[i], items.high[i], items.owned[i] == 1

    def store(start: Any, tile: int, y: Array) -> None:
        here = pl.ds(start, tile)
        row = start + jax.lax.broadcasted_iota(jnp.int32, (tile, 1), 0)
        mine = (row >= low) & (row < high)
        out[here, :] = jnp.where(mine, y.astype(out.dtype), out[here, :])

    def multiply(start: Any, tile: int, sums: Any) -> None:
        rows = pl.ds(start, tile)
        gate, *up = products(
            *(x, weights, scales, sums),
            rows=rows,
            chunk=blocks.chunk,
            kind=kind,
            fp8=fp8,
        )
        store(start, tile, jax.nn.silu(gate) * up[0] if up else gate)

    def every(tile: int, start: Any, count: Any, do: Any) -> None:
        def one(j: Any, carry: None) -> None:
            # The last tile may not run past the block: it repeats some rows instead.
            at = jnp.minimum(start + j * tile, blocks.rows - tile)
            do(pl.multiple_of(at, ALIGNED), tile)

        jax.lax.fori_loop(0, count, one, None)

    @pl.when(owned)
    def _() -> None:
        if blocks.tile == blocks.rows:
            multiply(0, blocks.tile, sums)
            return
        start = low // ALIGNED * ALIGNED
        if blocks.tile == blocks.rest:
            count = pl.cdiv(high - start, blocks.tile)
            every(blocks.tile, start, count, lambda s, t: multiply(s, t, sums))
            return
        whole = (high - start + blocks.rest - 1) // blocks.tile
        left = start + whole * blocks.tile
        small = pl.cdiv(high - left, blocks.rest)
        every(blocks.tile, start, whole, lambda s, t: multiply(s, t, sums[:gates]))
        every(blocks.rest, left, small, lambda s, t: multiply(s, t, sums[gates:]))

    @pl.when(~owned)
    def _() -> None:
        def clear(start: Any, tile: int) -> None:
            store(start, tile, jnp.zeros((tile, out.shape[1]), out.dtype))

        if blocks.tile == blocks.rows:
            clear(0, blocks.tile)
            return
        start = low // ALIGNED * ALIGNED
        count = pl.cdiv(high - start, blocks.rest)
        every(blocks.rest, start, count, clear)


def _tiles(blocks: Blocks) -> tuple[int, ...]:
    """Returns the heights that a step multiplies."""
    one = blocks.tile in (blocks.rows, blocks.rest)
    return (blocks.tile,) if one else (blocks.tile, blocks.rest)


def _chip(backend: Backend) -> Chip:
    assert backend.chip is not None  # the caller has checked
    return backend.chip
