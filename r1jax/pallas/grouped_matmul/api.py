"""Checks the arguments of a grouped matmul and picks a form."""

import jax
import jax.numpy as jnp

from r1jax.errors import ConfigError
from r1jax.pallas import dequant
from r1jax.pallas.backend import Backend
from r1jax.pallas.grouped_matmul import gpu, kernel, reference
from r1jax.pallas.grouped_matmul.blocks import check, choose
from r1jax.pallas.grouped_matmul.kernel import Blocks
from r1jax.typing import Array


def grouped_matmul(
    rows: Array,
    sizes: Array,
    weights: Array,
    *,
    backend: Backend,
    scales: Array | None = None,
    fused: bool = False,
    layer: Array | None = None,
    blocks: Blocks | None = None,
) -> Array:
    """Multiplies each expert's rows by its matrix.

    Weights of few bits lie as this reads them: XLA gives [E, D, 2, F] of one byte or
    less a layout with gate and up apart. For bfloat16 it does not, and copies them
    first, unless they were placed with `Layout((0, 2, 1, 3))`.

    Args:
      rows: Sorted by expert, [M, D], bfloat16 (or float32, for tests).
      sizes: Rows of each expert, int32 [E]. Their sum may be less than M.
      weights: [E, D, F]; with `fused` [E, D, 2, F], gate and up. bfloat16, int8,
        float8_e4m3fn or int4.
      backend: Which form runs.
      scales: One a column, [E, F] or [E, 2, F]; or one a block of D / 128 (256, 512)
        and F (or 128 columns), in the place of D and F in the weights' shape.
      fused: Gives silu(rows @ gate) * (rows @ up).
      layer: With it weights and scales have a leading axis of layers, of which this
        one is read, an int32 scalar. (A slice would be a copy.)
      blocks: Sizes to use instead of the rule's.

    Returns:
      [M, F] in the rows' dtype; rows beyond the sum of sizes are zero.

    Raises:
      ConfigError: Shapes, dtypes or blocks that do not fit.
    """
    _shapes(rows, sizes, weights, scales, fused, layer)
    if layer is not None and scales is not None:
        scales = jax.lax.dynamic_index_in_dim(scales, layer, 0, keepdims=False)
    first = jnp.int32(0) if layer is None else layer * len(sizes)
    stacked = weights.reshape(-1, *weights.shape[2:]) if layer is not None else weights
    if backend.kind == "gpu" and (scales is None or scales.ndim == weights.ndim - 1):
        if gpu.can_address(stacked):
            return gpu.grouped_matmul(rows, sizes, stacked, scales, first=first)
        mine = jax.lax.dynamic_slice_in_dim(stacked, first, len(sizes))
        return gpu.grouped_matmul(rows, sizes, mine, scales)
    apart = jnp.swapaxes(stacked, 1, 2) if fused else stacked[:, None]
    known = _apart(scales, fused, stacked.ndim)
    one = jax.ShapeDtypeStruct((len(sizes), *apart.shape[1:]), apart.dtype)
    kind = dequant.scaling("grouped_matmul", one, known)
    if backend.kind in ("reference", "gpu"):
        mine = jax.lax.dynamic_slice_in_dim(apart, first, len(sizes))
        return reference.grouped_matmul(rows, sizes, mine, known, kind)
    if backend.chip is None:
        raise ConfigError(
            "grouped_matmul was not told for which TPU",
            "its block sizes are chosen by generation",
            "use r1jax.pallas.backend.for_device or interpreted",
        )
    if blocks is None:
        blocks = choose(rows, len(sizes), apart, known, kind, backend.chip)
    check(blocks, rows, apart, kind)
    return kernel.grouped_matmul(
        rows, sizes, apart, known, first, kind=kind, blocks=blocks, backend=backend
    )


def _apart(scales: Array | None, fused: bool, ndim: int) -> Array | None:
    """Returns scales as [E, G, D / depth, F / width]."""
    if scales is None:
        return None
    if scales.ndim < ndim:
        scales = jnp.expand_dims(scales, 1)
    return jnp.swapaxes(scales, 1, 2) if fused else scales[:, None]


def _shapes(
    rows: Array,
    sizes: Array,
    weights: Array,
    scales: Array | None,
    fused: bool,
    layer: Array | None,
) -> None:
    lead = 0 if layer is None else 1
    what = weights.shape[lead:]
    fits = (
        rows.ndim == 2
        and sizes.ndim == 1
        and len(what) == (4 if fused else 3)
        and what[:2] == (len(sizes), rows.shape[1])
        and (not fused or what[2] == 2)
        and (scales is None or scales.ndim in (weights.ndim, weights.ndim - 1))
        and len(rows) > 0
    )
    if not fits:
        given = None if scales is None else scales.shape
        raise ConfigError(
            f"grouped_matmul was given rows {rows.shape}, sizes {sizes.shape}, weights "
            f"{weights.shape} and scales {given}",
            "it multiplies [M, D] by [E, D, F], or by [E, D, 2, F] when fused, with a "
            "leading axis of layers where `layer` is given",
            "give arrays of these shapes",
        )
    if rows.dtype not in (jnp.bfloat16, jnp.float32) or sizes.dtype != jnp.int32:
        raise ConfigError(
            f"grouped_matmul was given rows of {rows.dtype} and sizes of {sizes.dtype}",
            "it knows rows of bfloat16 and float32, and sizes of int32",
            "cast them",
        )
