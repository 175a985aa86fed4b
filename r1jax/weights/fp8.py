"""DeepSeek's fp8 blocks multiplied out, plainly and fast; both give the same bits.

An fp8 weight is `value * scale`, multiplied in float32 and rounded once to the wanted
dtype. The fast way is compiled for the CPU and leaves the rows side by side in memory,
as kernels want them: numpy takes ten times as long, a third of it for the turn.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from r1jax.typing import Array
from r1jax.weights.host import cpu

BLOCK = 128
_NUMBERS = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
_WIDE = _NUMBERS.astype(np.float32)  # a lookup is twice as fast as the conversion
_SMALLEST = 1e-34  # a scale whose products XLA would not flush to zero


def multiply_out(values: np.ndarray, scales: np.ndarray, start: int) -> np.ndarray:
    """Returns rows in float32.

    Args:
      values: Rows of fp8, [rows, columns].
      scales: All scales of the tensor, float32 [blocks of rows, blocks of columns].
      start: The first row's number.
    """
    wide = _WIDE[values.view(np.uint8)]
    for block in range(start // BLOCK, -(-(start + len(values)) // BLOCK)):
        rows = slice(max(0, block * BLOCK - start), (block + 1) * BLOCK - start)
        wide[rows] *= np.repeat(scales[block], BLOCK)[: values.shape[1]]
    return wide


def is_fast(scales: np.ndarray) -> bool:
    """Tells whether `multiply_out_fast` may be used."""
    small = scales[scales > 0].min(initial=1) < _SMALLEST
    return not small and cpu() is not None


def multiply_out_fast(
    values: np.ndarray, scales: np.ndarray, start: int, dtype: Any
) -> np.ndarray:
    """Returns rows in a dtype, their columns far apart in memory; see `multiply_out`.

    Args:
      values: Rows of fp8.
      scales: All scales of the tensor.
      start: The first row's number, a multiple of 128.
      dtype: What the products are rounded to.
    """
    first = start // BLOCK
    rows = scales[first : first + -(-len(values) // BLOCK)]
    turned = jax.device_put((values.view(np.uint8).T, rows.T), cpu())
    return np.asarray(_multiplied(*turned, jnp.dtype(dtype))).T


@functools.partial(jax.jit, static_argnums=2)
def _multiplied(values: Array, scales: Array, dtype: Any) -> Array:
    """Multiplies bytes of fp8 by their blocks' scales."""
    rows, columns = values.shape
    each = jnp.repeat(jnp.repeat(scales, BLOCK, 0), BLOCK, 1)[:rows, :columns]
    return (_widened(values) * each).astype(dtype)


def _widened(values: Array) -> Array:
    """Returns the float32 of bytes of float8_e4m3fn: 1 sign, 4 exponent, 3 fraction.

    XLA's own conversion does not use vectors. Both floats have the same order of bits;
    the exponents' biases are 7 and 127, and below 8 a fraction counts 2^-9.
    """
    bits = values.astype(jnp.uint32)
    magnitude = bits & 0x7F
    shifted = (magnitude << 20) + jnp.uint32((127 - 7) << 23)
    normal = jax.lax.bitcast_convert_type(shifted, jnp.float32)
    small = magnitude.astype(jnp.int32).astype(jnp.float32) * np.float32(2**-9)
    wide = jnp.where(magnitude < 8, small, normal)
    wide = jnp.where(magnitude == 0x7F, jnp.nan, wide)
    return jnp.where(bits >= 0x80, -wide, wide)
