"""Activations times weights of few bits, for TPUs: a step is one block of columns.

All of a block's terms are read at once, so a column's sum is finished in its step; rows
stay on the chip while the weights stream by, the next block read while this one
multiplies.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas import chips
from r1jax.pallas.backend import Backend
from r1jax.pallas.dequant import Scaling, products, scale_bytes, scale_spec
from r1jax.typing import Array


class Blocks(NamedTuple):
    """The sizes a step works with.

    Attributes:
      rows: Of x, and multiplied at once.
      columns: Of the result.
      chunk: Terms of the sum in a pass of the main loop.
    """

    rows: int
    columns: int
    chunk: int


def quant_matmul(
    x: Array,
    weights: Array,
    scales: Array | None,
    layer: Array,
    *,
    kind: Scaling | None,
    blocks: Blocks,
    backend: Backend,
) -> Array:
    """Multiplies rows by one layer's weights.

    Args:
      x: [T, D].
      weights: [L, D, F].
      scales: This layer's, [D / depth, F / width].
      layer: Which layer, an int32 scalar.
      kind: What shares a scale.
      blocks: Sizes.
      backend: "tpu" or "interpret".
    """
    assert backend.chip is not None  # the caller has checked
    count, depth = x.shape
    columns = weights.shape[-1]
    kept = buffers(x, weights, scales, kind, blocks)
    limit = chips.fit("quant_matmul", kept, backend.chip)

    def at_weights(f: Any, t: Any, layer: Any) -> Any:
        del t
        return layer[0], 0, f

    def at_scales(f: Any, t: Any, layer: Any) -> Any:
        del t, layer
        return 0, f

    specs = [
        pl.BlockSpec((blocks.rows, depth), lambda f, t, layer: (t, 0)),
        pl.BlockSpec((None, depth, blocks.columns), at_weights),
    ]
    stored = []
    if scales is not None and kind is not None:
        specs.append(scale_spec(scales.shape, kind, blocks.columns, at_scales))
        stored.append(scales)
    out = pl.BlockSpec((blocks.rows, blocks.columns), lambda f, t, layer: (t, f))
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=(pl.cdiv(columns, blocks.columns), pl.cdiv(count, blocks.rows)),
        in_specs=specs,
        out_specs=out,
        scratch_shapes=[pltpu.VMEM((blocks.rows, blocks.columns), jnp.float32)],
    )
    interpret = pltpu.InterpretParams(detect_races=backend.detect_races)
    return pl.pallas_call(
        functools.partial(_kernel, chunk=blocks.chunk, kind=kind, fp8=backend.chip.fp8),
        out_shape=jax.ShapeDtypeStruct((count, columns), x.dtype),
        grid_spec=grid_spec,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=limit
        ),
        cost_estimate=cost(x, weights, scales, blocks),
        interpret=interpret if backend.kind == "interpret" else False,
        name="quant_matmul",
    )(layer.reshape(1), x, weights, *stored)


def buffers(
    x: Any, weights: Any, scales: Any, kind: Scaling | None, blocks: Blocks
) -> dict[str, int]:
    """Returns the bytes of a step in VMEM, the next step's blocks counted."""
    depth, size = x.shape[1], x.dtype.itemsize
    bits = jax.dtypes.itemsize_bits(weights.dtype)
    scale = 0 if scales is None else scale_bytes(scales.shape, kind, blocks.columns)
    return {
        "x": 2 * blocks.rows * depth * size,
        "weights": 2 * depth * blocks.columns * bits // 8,
        "scales": 2 * scale,
        "result": 2 * blocks.rows * blocks.columns * size,
        "sums": 4 * blocks.rows * blocks.columns,
    }


def cost(x: Any, weights: Any, scales: Any, blocks: Blocks) -> pl.CostEstimate:
    """Returns the work of a product; rows of several blocks come once a strip."""
    (count, depth), columns = x.shape, weights.shape[-1]
    bits = jax.dtypes.itemsize_bits(weights.dtype)
    again = 1 if blocks.rows >= count else pl.cdiv(columns, blocks.columns)
    stored = depth * columns * bits // 8
    if scales is not None:
        stored += scales.size * scales.dtype.itemsize
    return pl.CostEstimate(
        flops=2 * count * depth * columns,
        bytes_accessed=stored + count * (depth * again + columns) * x.dtype.itemsize,
        transcendentals=0,
    )


def _kernel(
    layer: Any,
    x: Any,
    weights: Any,
    *refs: Any,
    chunk: int,
    kind: Scaling | None,
    fp8: str,
) -> None:
    """Multiplies a block of rows by a block of columns."""
    del layer  # only the index maps read it
    *scales, out, sums = refs
    (y,) = products(
        *(x, [weights], scales, [sums]),
        rows=slice(None),
        chunk=chunk,
        kind=kind,
        fp8=fp8,
    )
    out[...] = y.astype(out.dtype)
