"""Matrix products whose equation, shape and logical axes stand in one line."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from r1jax.typing import Array


class Projection(nn.Module):
    """One einsum with a kernel, and an optional bias over the output's last axes.

    Attributes:
      equation: Einsum of the input and the kernel, in the letters of `r1jax.typing`.
      shape: The kernel's shape.
      axes: A logical axis name for each dimension of the kernel.
      bias: How many of the kernel's last dimensions a bias has; 0 for no bias.
      inputs: How many of the kernel's first dimensions are summed over (for the
        scale of the random initialisation).
    """

    equation: str
    shape: Sequence[int]
    axes: Sequence[str]
    bias: int = 0
    inputs: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Multiplies in the kernel's dtype; sums are kept in float32 by XLA."""
        fan_in = range(self.inputs)
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=tuple(fan_in),
            out_axis=tuple(range(self.inputs, len(self.shape))),
        )  # fmt: skip
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(init, tuple(self.axes)),
            tuple(self.shape),
        )
        y = jnp.einsum(self.equation, x, kernel)
        if self.bias:
            zeros = nn.with_logical_partitioning(
                nn.initializers.zeros_init(), tuple(self.axes[-self.bias :])
            )
            shape = tuple(self.shape[-self.bias :])
            y = y + jnp.expand_dims(self.param("bias", zeros, shape), 0)
        return y
