"""Weights of few bits: values and their scales, one leaf of the parameter tree.

Scales never touch a weight: they multiply sums, one for each column of a matrix. So a
quantised kernel stands at the same path as a plain one, and whoever multiplies by it
asks what it is.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.typing import Array, Float, PyTree

_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
# Kernels that are worth it; the others are small, or products want them whole.
_PROJECTIONS = ("q", "k", "v", "o", "q_down", "q_up", "kv_down", "gate_up", "down")
_GATE_UP = "gate_up"


@flax.struct.dataclass
class QArray:
    """A quantised array.

    Attributes:
      values: The stored numbers: matrices [..., inputs, outputs], as kernels read them.
        A dense gate_up is two of them, [L, 2, D, F]; experts' are [L, E, D, 2, F].
      scales: float32, as `values` without the axis of the inputs.
    """

    values: Array
    scales: Array


def quantise(array: Array, summed: int, dtype: str = "int8") -> QArray:
    """Rounds an array to few bits, a scale for each column.

    Args:
      array: What is quantised.
      summed: The axis that products sum over, counted from the end.
      dtype: int8 or float8_e4m3fn.
    """
    most = _LARGEST[dtype]
    wide = array.astype(jnp.float32)
    scales = jnp.maximum(jnp.max(jnp.abs(wide), axis=summed), 1e-20) / most
    values = wide / jnp.expand_dims(scales, summed)
    if jnp.issubdtype(jnp.dtype(dtype), jnp.integer):
        values = jnp.round(values)
    return QArray(values.astype(dtype), scales)


def widen(array: QArray, summed: int) -> Float[Array, "..."]:
    """Returns the float32 numbers that a quantised array stands for."""
    return array.values.astype(jnp.float32) * jnp.expand_dims(array.scales, summed)


def quantise_layers(group: PyTree, dtype: str = "int8") -> PyTree:
    """Quantises the large kernels of a stacked group of layers (docs/weights.md)."""

    def one(path: Any, leaf: Array) -> Any:
        found = _kind(path)
        if found == "experts":
            return quantise(leaf, _summed(path), dtype)
        if found == "projection":
            return quantise(_as_matrices(path, leaf), -2, dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(one, group)


def quantised_axes(group: PyTree) -> PyTree:
    """Returns the logical axes of what `quantise_layers` makes.

    Args:
      group: The axes of the plain group.
    """

    def one(path: Any, names: tuple[str | None, ...]) -> Any:
        found = _kind(path)
        if not found:
            return names
        if found == "projection":
            names = _matrix_axes(path, names)
        summed = _summed(path) if found == "experts" else -2
        kept = list(names)
        del kept[summed]
        parts: tuple[Any, Any] = (tuple(names), tuple(kept))
        return QArray(*parts)

    return jax.tree_util.tree_map_with_path(
        one, group, is_leaf=lambda x: isinstance(x, tuple)
    )


def _kind(path: Any) -> str:
    names = [key.key for key in path]
    if names[-2] == "experts":
        return "experts"
    is_projection = names[-1] == "kernel" and names[-2] in _PROJECTIONS
    return "projection" if is_projection else ""


def _summed(path: Any) -> int:
    """Returns the axis that experts' products sum over."""
    return -3 if path[-1].key == _GATE_UP else -2


def _as_matrices(path: Any, kernel: Array) -> Array:
    """Lays a stacked kernel [L, *inputs, *outputs] as matrices."""
    name = path[-2].key
    if name == _GATE_UP:
        return jnp.swapaxes(kernel, 1, 2)
    rows = math.prod(kernel.shape[1 : 1 + inputs_of(name)])
    return kernel.reshape(len(kernel), rows, -1)


def _matrix_axes(path: Any, names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the axes of the matrices: where several were joined, the major one."""
    name = path[-2].key
    if name == _GATE_UP:
        return (names[0], names[2], names[1], names[3])
    return (names[0], names[1], names[1 + inputs_of(name)])


def inputs_of(name: str) -> int:
    """Returns over how many axes a projection of this name sums."""
    return 2 if name == "o" else 1
