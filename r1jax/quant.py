"""Weights of few bits: values and their scales, one leaf of the parameter tree.

Scales never touch a weight: they multiply sums. So a quantised kernel stands at the
same path as a plain one, and whoever multiplies by it asks what it is.
"""

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp

from r1jax.typing import Array, Float

_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}


@flax.struct.dataclass
class QArray:
    """A quantised array.

    Attributes:
      values: The stored numbers.
      scales: float32, as `values` without the axis that is summed over: a scale for
        each column.
    """

    values: Array
    scales: Array

    def wide(self, summed: int) -> Float[Array, "..."]:
        """Returns the float32 numbers that these stand for.

        Args:
          summed: Which axis of the values has no scales.
        """
        return self.values.astype(jnp.float32) * jnp.expand_dims(self.scales, summed)


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


def axes(names: Sequence[str], summed: int) -> QArray:
    """Returns the logical axes of both parts of a quantised array.

    Args:
      names: The array's.
      summed: As in `quantise`.
    """
    kept = list(names)
    del kept[summed]
    parts: tuple[object, object] = (tuple(names), tuple(kept))
    return QArray(*parts)  # type: ignore[arg-type]
