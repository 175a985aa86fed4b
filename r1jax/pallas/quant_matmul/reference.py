"""The meaning: a product with the weights that the stored ones stand for."""

import jax
import jax.numpy as jnp

from r1jax.pallas.dequant import Scaling, dequantise
from r1jax.typing import Array


def quant_matmul(
    x: Array, weight: Array, scales: Array | None, kind: Scaling | None
) -> Array:
    """Multiplies x [T, D] by weights [D, F]."""
    wide = dequantise(weight, scales, kind)
    exact = jax.lax.Precision.HIGHEST
    return jnp.matmul(x.astype(jnp.float32), wide, precision=exact).astype(x.dtype)
