"""Rounding to few bits: the arithmetic alone, the same in numpy and in JAX.

Loading and conversion round numpy arrays on the host, everything else JAX arrays; both
run this code, and give the same bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.pallas.dequant import FORMS, Scaling

_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0, "int4": 7.0}
_NOTHING = 1e-20  # a block whose largest value is less becomes zeros, with scale 1


def round_to(array: Any, summed: int, form: str) -> tuple[Any, Any]:
    """Rounds to few bits.

    Args:
      array: numpy or JAX; any floats, all finite.
      summed: The axis that products sum over, counted from the end.
      form: int8, fp8, fp8_blocks or int4. A last block may be narrower.

    Returns:
      Values shaped as the array, and float32 scales: without the summed axis where a
      column has one, else with numbers of blocks in the place of the axes' sizes.
    """
    wanted = FORMS[form]
    assert wanted.scaling is not None
    xp: Any = jnp if isinstance(array, jax.Array) else np
    wide, kind = array.astype(np.float32), wanted.scaling
    peaks = xp.abs(wide)
    if kind.depth:
        peaks = _block_max(xp, peaks, summed, kind.depth)
        peaks = _block_max(xp, peaks, -1, kind.width)
    else:
        peaks = xp.max(peaks, axis=summed)
    dtype = jnp.dtype(wanted.dtype)
    most = np.float32(_LARGEST[dtype.name])
    # XLA turns a division by a constant into this product, which rounds otherwise.
    scales = xp.where(peaks < _NOTHING, most, peaks) * (np.float32(1) / most)
    values = wide / spread(scales, wide.shape, summed, kind)
    if jnp.issubdtype(dtype, jnp.integer):
        values = xp.round(values)
    return values.astype(dtype), scales


def spread(scales: Any, shape: tuple[int, ...], summed: int, kind: Scaling) -> Any:
    """Repeats scales so that every weight of an array of this shape has its own.

    Args:
      scales: As `round_to` gives them.
      shape: Of the weights.
      summed: The axis that products sum over, counted from the end.
      kind: What shares a scale; depth 0 is a whole column.
    """
    xp: Any = jnp if isinstance(scales, jax.Array) else np
    if not kind.depth:
        return xp.expand_dims(scales, summed)
    rows = xp.repeat(scales, kind.depth, axis=summed)
    each = xp.repeat(rows, kind.width, axis=-1)
    cut = [slice(None)] * len(shape)
    cut[summed], cut[-1] = slice(shape[summed]), slice(shape[-1])
    return each[tuple(cut)]


def _block_max(xp: Any, array: Any, axis: int, block: int) -> Any:
    """Returns the largest of every block along an axis."""
    if block == 1:
        return array
    axis = axis % array.ndim
    size = array.shape[axis]
    more = [(0, 0)] * array.ndim
    more[axis] = (0, -size % block)
    padded = xp.pad(array, more) if size % block else array
    count = padded.shape[axis] // block
    parts = padded.reshape(*array.shape[:axis], count, block, *array.shape[axis + 1 :])
    return xp.max(parts, axis=axis + 1)
