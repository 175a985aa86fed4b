"""Root-mean-square normalisation (arXiv 1910.07467)."""

import flax.linen as nn

from r1jax.layers.gradients import rms_norm
from r1jax.layers.linear import weight
from r1jax.typing import Array


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
