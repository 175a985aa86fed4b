"""Root-mean-square normalisation (arXiv 1910.07467)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.layers.linear import weight
from r1jax.typing import Array, Float, typechecked


@typechecked
def rms_norm(
    x: Float[Array, "*rows D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*rows D"]:
    """Normalises in float32, rounds to the input's dtype, then scales."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = (wide * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype)
    return normed * jnp.expand_dims(scale, tuple(range(x.ndim - 1)))


class RmsNorm(nn.Module):
    """Holds the scale of `rms_norm`, of length `width`."""

    width: int
    eps: float
    axis: str = "norm"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis of `x`."""
        ones = nn.initializers.ones_init()
        scale = weight(self, "scale", ones, (self.axis,), (self.width,))
        return rms_norm(x, scale, self.eps)
