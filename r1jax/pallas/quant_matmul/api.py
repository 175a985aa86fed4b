"""Checks the arguments of a quantised matmul and picks a form."""

import jax
import jax.numpy as jnp

from r1jax.errors import ConfigError
from r1jax.pallas import dequant
from r1jax.pallas.backend import Backend
from r1jax.pallas.quant_matmul import kernel, reference
from r1jax.pallas.quant_matmul.blocks import check, choose
from r1jax.pallas.quant_matmul.kernel import Blocks
from r1jax.typing import Array


def quant_matmul(
    x: Array,
    weight: Array,
    scales: Array | None,
    *,
    backend: Backend,
    layer: Array | None = None,
    blocks: Blocks | None = None,
) -> Array:
    """Multiplies activations by stored weights, scaled in the accumulator.

    Args:
      x: [T, D], bfloat16 (or float32, for tests).
      weight: [D, F]: int8, float8_e4m3fn or int4 (or plain, without scales).
      scales: One a column, [F]; or one a block, [D / 128 (256, 512), F or F / 128].
      backend: Which form runs.
      layer: With it weights and scales have a leading axis of layers, of which this
        one is read, an int32 scalar. (A slice would be a copy.)
      blocks: Sizes to use instead of the rule's.

    Returns:
      [T, F] in x's dtype.

    Raises:
      ConfigError: Shapes, dtypes or blocks that do not fit.
    """
    stacked = weight if layer is not None else weight[None]
    _shapes(x, weight, stacked, scales)
    if layer is not None and scales is not None:
        scales = jax.lax.dynamic_index_in_dim(scales, layer, 0, keepdims=False)
    if scales is not None and scales.ndim == 1:
        scales = scales[None]
    one = jax.ShapeDtypeStruct(stacked.shape[1:], stacked.dtype)
    kind = dequant.scaling("quant_matmul", one, scales)
    which = jnp.int32(0) if layer is None else layer
    if backend.kind in ("reference", "gpu"):
        mine = jax.lax.dynamic_index_in_dim(stacked, which, 0, keepdims=False)
        return reference.quant_matmul(x, mine, scales, kind)
    if backend.chip is None:
        raise ConfigError(
            "quant_matmul was not told for which TPU",
            "its block sizes are chosen by generation",
            "use r1jax.pallas.backend.for_device or interpreted",
        )
    if blocks is None:
        blocks = choose(x, stacked, scales, kind, backend.chip)
    check(blocks, x, stacked, kind)
    return kernel.quant_matmul(
        x, stacked, scales, which, kind=kind, blocks=blocks, backend=backend
    )


def _shapes(x: Array, weight: Array, stacked: Array, scales: Array | None) -> None:
    lead = weight.ndim - 2
    fits = (
        x.ndim == 2
        and len(x) > 0
        and stacked.ndim == 3
        and stacked.shape[1] == x.shape[1]
        and (scales is None or scales.ndim in (lead + 1, lead + 2))
    )
    if not fits:
        given = None if scales is None else scales.shape
        raise ConfigError(
            f"quant_matmul was given x {x.shape}, weights {weight.shape} and scales "
            f"{given}",
            "it multiplies [T, D] by [D, F], with a leading axis of layers where "
            "`layer` is given",
            "give arrays of these shapes",
        )
    if x.dtype not in (jnp.bfloat16, jnp.float32):
        raise ConfigError(
            f"quant_matmul was given x of {x.dtype}",
            "it knows bfloat16 and float32",
            "cast it",
        )
