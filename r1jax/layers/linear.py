"""Matrix products, and the one way a module gets at its weights.

A kernel is [inputs, outputs]. On a CPU the engine keeps it `Turned`, [outputs, inputs]:
then one output's weights lie side by side, and a step of a few tokens can read each
weight once, at the speed of memory (`matvecs`).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.typing import Array, Float, typechecked

# More rows than this and a library's matrix product is faster than `matvecs`.
FEW_ROWS = 8
# How many blocks of outputs are summed side by side, by the number of rows.
_BLOCKS = {1: 8, 2: 4, 4: 4, 8: 3}


@flax.struct.dataclass
class Turned:
    """A kernel stored [..., outputs, inputs]."""

    array: Array


Kernel = Array | Turned


def weight(
    module: nn.Module, name: str, init: Any, axes: Sequence[str], shape: Sequence[int]
) -> Any:
    """Declares a parameter, or reads it in whatever form the caller keeps it."""
    if module.is_initializing():
        partitioned = nn.with_logical_partitioning(init, tuple(axes))
        return module.param(name, partitioned, tuple(shape))
    return module.get_variable("params", name)


def project(
    x: Float[Array, "T I"], kernel: Kernel, dtype: Any = None
) -> Float[Array, "T O"]:
    """Multiplies rows by a two-dimensional kernel.

    The result has the given dtype, or that of the operands; sums are float32.
    """
    if not isinstance(kernel, Turned):
        return jnp.matmul(x, kernel, preferred_element_type=dtype)
    rows = len(x)
    if rows <= FEW_ROWS and x.dtype == jnp.float32:
        return matvecs(x, kernel.array)
    if rows < 4 * FEW_ROWS:
        # Behind the barriers XLA takes the kernel as the left operand, as it lies.
        across = jax.lax.optimization_barrier(x.T)
        y = jnp.matmul(kernel.array, across, preferred_element_type=dtype)
        return jax.lax.optimization_barrier(y).T
    return jnp.matmul(x, kernel.array.T, preferred_element_type=dtype)


@typechecked
def matvecs(x: Float[Array, "T I"], turned: Float[Array, "O I"]) -> Float[Array, "T O"]:
    """Equals `x @ turned.T`; every weight is read once for all of a few rows.

    One reduction has an output for each row and each block of outputs, which XLA's
    CPU backend neither splits nor turns into a library call. Compile it with
    `CPU_OPTIONS`: without them the sums are not vectorised.
    """
    rows, outputs = len(x), len(turned)
    blocks = next((b for r, b in _BLOCKS.items() if r >= rows), 1)
    while outputs % blocks:
        blocks -= 1
    parts = jnp.split(turned, blocks)
    products = [part * row[None] for row in x for part in parts]
    sums = reduce_together(products, (1,))
    return jnp.concatenate(sums).reshape(rows, outputs)


def reduce_together(operands: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """Sums several arrays of one shape over the same axes in a single pass."""
    zeros = [jnp.zeros((), o.dtype) for o in operands]

    def add(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
        return [p + q for p, q in zip(a, b, strict=True)]

    return list(jax.lax.reduce(list(operands), zeros, add, axes))


class Projection(nn.Module):
    """Sums the input's last axes against a kernel's first ones.

    Attributes:
      shape: The kernel's shape.
      axes: A logical axis name for each dimension of the kernel.
      inputs: How many of the kernel's first dimensions are summed over.
      bias: True for a bias over the remaining ones.
    """

    shape: Sequence[int]
    axes: Sequence[str]
    inputs: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [T, *inputs] to [T, *outputs] in the kernel's dtype."""
        shape, axes = tuple(self.shape), tuple(self.axes)
        summed, outputs = shape[: self.inputs], shape[self.inputs :]
        init = nn.initializers.variance_scaling(
            1.0,
            "fan_in",
            "normal",
            in_axis=tuple(range(self.inputs)),
            out_axis=tuple(range(self.inputs, len(shape))),
        )
        kernel = weight(self, "kernel", init, axes, shape)
        if isinstance(kernel, Turned):
            y = project(x.reshape(len(x), -1), kernel).reshape(len(x), *outputs)
        else:
            # Joined into a matrix, axes that a mesh cuts would be gathered first.
            y = jnp.tensordot(x.reshape(len(x), *summed), kernel, self.inputs)
        if self.bias:
            zeros = nn.initializers.zeros_init()
            y = y + weight(self, "bias", zeros, axes[self.inputs :], outputs)[None]
        return y
