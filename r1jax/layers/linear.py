"""Matrix products, and the one way a module gets at its weights.

A kernel is [inputs, outputs]. On a CPU the engine keeps it `Turned`, [outputs, inputs]:
then one output's weights lie side by side, and a step of a few tokens can read each
weight once, at the speed of memory (`matvecs`). Either may be of few bits.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax import quant
from r1jax.layers.gradients import add_bias, product
from r1jax.pallas.quant_matmul import quant_matmul
from r1jax.quant import QArray, check_cuts, factors
from r1jax.target import Target
from r1jax.typing import Array, Float, typechecked

# More rows than this and a library's matrix product is faster than `matvecs`.
FEW_ROWS = 4
# Up to so many rows XLA multiplies faster with a whole kernel as its left operand.
MANY_ROWS = 512
# How many blocks of outputs are summed side by side, by the number of rows.
_BLOCKS = {1: 8, 2: 4, 4: 4}


@flax.struct.dataclass
class Turned:
    """A kernel stored [..., outputs, inputs].

    Of few bits its scales are [..., outputs], or [..., outputs, blocks of inputs].
    """

    array: Array | QArray


@flax.struct.dataclass
class Stacked:
    """A kernel within the stack of all layers, for kernels: a slice would be a copy.

    Attributes:
      stack: [L, ...], plain or quantised.
      layer: Which layer, an int32 scalar.
      target: What runs.
    """

    stack: Array | QArray
    layer: Array
    target: Target = flax.struct.field(pytree_node=False)


Kernel = Array | QArray | Turned


def weight(
    module: nn.Module, name: str, init: Any, axes: Sequence[str], shape: Sequence[int]
) -> Any:
    """Declares a parameter, or reads it in whatever form the caller keeps it."""
    if module.is_initializing():
        partitioned = nn.with_logical_partitioning(init, tuple(axes))
        return module.param(name, partitioned, tuple(shape))
    return module.get_variable("params", name)


def project(
    x: Float[Array, "T I"], kernel: Kernel, dtype: Any = None, many: int = MANY_ROWS
) -> Float[Array, "T O"]:
    """Multiplies rows by a two-dimensional kernel.

    The result has the given dtype, or that of the operands; sums are float32. From
    `many` rows on a `Turned` kernel is the right operand.
    """
    summed = -1 if isinstance(kernel, Turned) else -2
    stored = kernel.array if isinstance(kernel, Turned) else kernel
    if isinstance(stored, QArray):
        weights, scales = factors(stored, summed, x.dtype)
        plain = Turned(weights) if summed == -1 else weights
        y = project(x, plain, dtype if scales is None else jnp.float32, many)
        return y if scales is None else (y * scales[None]).astype(dtype or x.dtype)
    if summed == -2:
        return jnp.matmul(x, stored, preferred_element_type=dtype)
    rows = len(x)
    if rows <= FEW_ROWS and x.dtype == jnp.float32:
        return matvecs(x, stored)
    if rows < many:
        # Behind the barriers XLA takes the kernel as the left operand, as it lies.
        across = jax.lax.optimization_barrier(x.T)
        y = jnp.matmul(stored, across, preferred_element_type=dtype)
        return jax.lax.optimization_barrier(y).T
    return jnp.matmul(x, stored.T, preferred_element_type=dtype)


def _project_matrices(x: Float[Array, "T I"], kernel: QArray) -> Float[Array, "T ..."]:
    """Multiplies rows by a matrix, or by each of several, [G, I, O] to [T, G, O]."""
    if kernel.values.ndim == 2:
        return project(x, kernel)
    products = [
        project(x, jax.tree.map(lambda array, i=i: array[i], kernel))
        for i in range(len(kernel.values))
    ]
    return jnp.stack(products, axis=1)


def project_quantised(
    x: Float[Array, "T ..."], kernel: Stacked, axes: Sequence[str], inputs: int
) -> Float[Array, "T ..."]:
    """Multiplies by matrices of few bits, on every device by its own part of them.

    Args:
      x: [T, *inputs].
      kernel: Matrices [L, I, O] of all layers, or several a layer, [L, G, I, O].
      axes: The logical axes of the kernel before it became a matrix.
      inputs: How many of them are summed over.

    Returns:
      [T, O], or [T, G, O].
    """
    stack, target, on = kernel.stack, kernel.target, kernel.target.placement
    assert isinstance(stack, QArray)  # plain kernels are sliced by the scan
    several = stack.values.ndim > 3
    axis_in, axis_out = axes[0], axes[-1] if several else axes[inputs]
    lead = ("layers", None) if several else ("layers",)

    def local(x: Array, values: Array, scales: Array, layer: Array) -> Array:
        many = values.shape[1] if several else 1
        flat = x.reshape(len(x), -1)
        matrices = values.reshape(-1, *values.shape[-2:])
        each = scales.reshape(-1, *scales.shape[len(lead) :])
        products = [
            quant_matmul(
                flat, matrices, each, layer=layer * many + i, backend=target.backend
            )
            for i in range(many)
        ]
        y = jnp.stack(products, axis=1) if several else products[0]
        over = on.mesh_axes(axis_in) if on else ()
        return jax.lax.psum(y, over) if over else y

    arguments = (x, stack.values, stack.scales, kernel.layer)
    if on is None:
        return local(*arguments)
    check_cuts(stack, -2, (*lead, axis_in, axis_out), on)
    blocked = stack.scales.ndim == stack.values.ndim
    rest = [None] * (x.ndim - 2)
    specs = (
        on.spec(("tokens", axis_in, *rest), x.shape),
        on.spec((*lead, axis_in, axis_out), stack.values.shape),
        on.spec(
            (*lead, axis_in, axis_out) if blocked else (*lead, axis_out),
            stack.scales.shape,
        ),
        PartitionSpec(),
    )
    middle = [None] * (len(lead) - 1)
    out = PartitionSpec(
        on.mesh_axes("tokens") or None, *middle, on.mesh_axes(axis_out) or None
    )
    return on.on_each(local, specs, out)(*arguments)


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


def turn(array: QArray, summed: int, stacked: int) -> QArray:
    """Lays matrices as one, [*stacked, outputs, inputs].

    Scales become [*stacked, outputs], or one for each block of an output's inputs: the
    last blocks of columns of two matrices need not fit together.

    Args:
      array: Of the layout that `QArray` describes.
      summed: The axis of the inputs, counted from the end.
      stacked: How many leading axes stay.
    """

    def joined(part: Any) -> Any:
        moved = jnp.moveaxis(part, summed, -1)
        return moved.reshape(*part.shape[:stacked], -1, moved.shape[-1])

    values, scales = joined(array.values), array.scales
    if scales.ndim < array.values.ndim:
        return QArray(values, scales.reshape(*scales.shape[:stacked], -1))
    width, columns = quant.scaling_of(array, summed).width, array.values.shape[-1]
    each = jnp.repeat(scales, width, axis=-1)[..., :columns]
    return QArray(values, joined(each))


def turn_back(array: QArray, summed: int, like: QArray) -> QArray:
    """Undoes `turn`; `like` has the shapes."""

    def parted(part: Any, shape: Sequence[int]) -> Any:
        moved = list(shape)
        moved.append(moved.pop(summed))
        return jnp.moveaxis(part.reshape(moved), -1, summed)

    shape, scales = like.values.shape, array.scales
    values = parted(array.values, shape)
    if len(like.scales.shape) < len(shape):
        return QArray(values, scales.reshape(like.scales.shape))
    depth = like.scales.shape[summed]
    each = [depth if i == len(shape) + summed else n for i, n in enumerate(shape)]
    width = quant.scaling_of(like, summed).width
    return QArray(values, parted(scales, each)[..., ::width])


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
        if isinstance(kernel, Stacked):
            y = project_quantised(x, kernel, axes, self.inputs)
            y = y.reshape(len(x), *outputs)
        elif isinstance(kernel, Turned):
            y = project(x.reshape(len(x), -1), kernel).reshape(len(x), *outputs)
        elif isinstance(kernel, QArray):
            y = _project_matrices(x.reshape(len(x), -1), kernel)
            y = y.reshape(len(x), *outputs)
        else:
            # Axes are not joined: those that a mesh cuts would be gathered first.
            y = product(x.reshape(len(x), *summed), kernel, self.inputs)
        if self.bias:
            zeros = nn.initializers.zeros_init()
            y = add_bias(y, weight(self, "bias", zeros, axes[self.inputs :], outputs))
        return y
