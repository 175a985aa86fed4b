"""The meaning: every row meets the matrix of the expert that owns it."""

import jax
import jax.numpy as jnp

from r1jax.pallas.dequant import Scaling, dequantise
from r1jax.typing import Array


def grouped_matmul(
    rows: Array,
    sizes: Array,
    weights: Array,
    scales: Array | None,
    kind: Scaling | None,
) -> Array:
    """Multiplies rows [M, D] by their expert's weights [E, G, D, F]; G is 1 or 2."""
    ends = jnp.cumsum(sizes)

    def add(expert: Array, out: Array) -> Array:
        scale = None if scales is None else scales[expert]
        matrices = dequantise(weights[expert], scale, kind)
        products = jnp.einsum(
            "MD,GDF->GMF",
            rows.astype(jnp.float32),
            matrices,
            precision=jax.lax.Precision.HIGHEST,
        )
        y = (
            products[0]
            if len(products) == 1
            else jax.nn.silu(products[0]) * products[1]
        )
        row = jnp.arange(len(rows))
        mine = (row >= ends[expert] - sizes[expert]) & (row < ends[expert])
        return jnp.where(mine[:, None], y, out)

    out = jnp.zeros((len(rows), weights.shape[-1]), jnp.float32)
    return jax.lax.fori_loop(0, len(sizes), add, out).astype(rows.dtype)
