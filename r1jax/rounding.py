"""Rounding to few bits: the arithmetic alone, the same in numpy and in JAX.

Loading and conversion round numpy arrays on the host, everything else JAX arrays; both
run this code, and give the same bits.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from r1jax.pallas.dequant import FORMS, Scaling

_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0, "int4": 7.0}
# Scales that are tried, as multiples of the largest value's: how well a binary float's
# steps fit depends on where between two powers of two the numbers lie. It takes an fp8
# model's perplexity from 2.5 % above float32's to 0.6 % (SmolLM2).
_TRIED = {"float8_e4m3fn": tuple(np.float32(2 ** (k / 4)) for k in range(4))}
_NOTHING = 1e-20  # a block whose largest value is less becomes zeros, with scale 1
# A band of a large array: it and its temporaries stay in a core's own cache.
_ROWS, _COLUMNS = 256, 256


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
    kind, dtype, xp = _wanted(form), _dtype(form), _module(array)
    wide = array.astype(np.float32)

    def over_blocks(reduce: Any, parts: Any) -> Any:
        if not kind.depth:
            return reduce(parts, axis=summed)
        rows = _by_blocks(xp, reduce, parts, summed, kind.depth)
        return _by_blocks(xp, reduce, rows, -1, kind.width)

    def divided(scales: Any) -> Any:
        return wide / spread(scales, wide.shape, summed, kind)

    scales = _scales(xp, over_blocks(xp.max, xp.abs(wide)), dtype)
    tried = [scales * factor for factor in _TRIED.get(dtype.name, ())]
    if tried:
        errors = [over_blocks(xp.sum, _error(divided(one))) for one in tried]
        scales = _best(xp, scales, errors, dtype)
    return _cast(divided(scales), dtype), scales


def round_on_host(
    array: np.ndarray, summed: int, form: str, run: Callable[..., Any] = map
) -> tuple[np.ndarray, np.ndarray]:
    """Equals `round_to` of a large numpy array, band by band in a core's cache.

    Besides the result nothing as large as the array is made.

    Args:
      array: What is rounded.
      summed: The axis that products sum over, counted from the end.
      form: One of `round_to`'s.
      run: As `map`; a pool's map lets several threads do it.
    """
    kind, dtype = _wanted(form), _dtype(form)
    values = np.empty(array.shape, dtype)
    scales = np.empty(scale_shape(array.shape, summed, form), np.float32)
    summed = summed % array.ndim

    def work(band: tuple[tuple[int, ...], slice]) -> None:
        lead, columns = band
        one, out = array[lead][..., columns], values[lead][..., columns]
        rows = _bands(len(one), _ROWS)
        if kind.depth:
            across = _blocks(columns, kind.width)
            for some in rows:
                places = (_blocks(some, kind.depth), ..., across)
                out[some], scales[lead][places] = round_to(one[some], -one.ndim, form)
            return
        peaks = [np.abs(one[some].astype(np.float32)).max(axis=0) for some in rows]
        mine = _scales(np, np.max(peaks, axis=0), dtype)
        errors = [np.zeros(mine.shape, np.int64) for _ in _TRIED.get(dtype.name, ())]
        for some in rows if errors else ():
            wide = one[some].astype(np.float32)
            for error, factor in zip(errors, _TRIED[dtype.name], strict=True):
                error += _error(wide / (mine * factor)).sum(axis=0)
        mine = _best(np, mine, errors, dtype) if errors else mine
        scales[lead][..., columns] = mine
        for some in rows:
            out[some] = _cast(one[some].astype(np.float32) / mine, dtype)

    leads, columns = np.ndindex(array.shape[:summed]), array.shape[-1]
    for _ in run(work, itertools.product(leads, _bands(columns, _COLUMNS))):
        pass
    return values, scales


def _bands(size: int, most: int) -> list[slice]:
    return [slice(at, min(at + most, size)) for at in range(0, size, most)]


def _blocks(places: slice, block: int) -> slice:
    """Returns the blocks that places, which begin with one, lie in."""
    return slice(places.start // block, -(-places.stop // block))


def _wanted(form: str) -> Scaling:
    kind = FORMS[form].scaling
    assert kind is not None
    return kind


def _dtype(form: str) -> np.dtype[Any]:
    return jnp.dtype(FORMS[form].dtype)


def _module(array: Any) -> Any:
    return jnp if isinstance(array, jax.Array) else np


def _scales(xp: Any, peaks: Any, dtype: np.dtype[Any]) -> Any:
    """Returns what makes the largest value of a block the largest of the dtype."""
    most = np.float32(_LARGEST[dtype.name])
    # XLA turns a division by a constant into this product, which rounds otherwise.
    return xp.where(peaks < _NOTHING, most, peaks) * (np.float32(1) / most)


def _cast(values: Any, dtype: np.dtype[Any]) -> Any:
    """Rounds to nearest, ties to even."""
    xp = _module(values)
    if jnp.issubdtype(dtype, jnp.integer):
        return xp.round(values).astype(np.int8).astype(dtype)
    return values.astype(dtype) if xp is jnp else _to_e4m3(values)


def _to_e4m3(values: np.ndarray) -> np.ndarray:
    """Rounds float32 to float8_e4m3fn; ml_dtypes' own way is a fifth as fast.

    What `_e4m3_magnitudes` leaves is moved to e4m3's exponent, whose bias is 120 less.
    """
    moved = (_e4m3_magnitudes(values) * np.float32(2.0**-120)).view(np.uint32) >> 20
    signs = (values.view(np.uint32) >> 24).astype(np.uint8) & 0x80
    return (moved.astype(np.uint8) | signs).view(ml_dtypes.float8_e4m3fn)


def _e4m3_magnitudes(values: Any) -> Any:
    """Rounds magnitudes of at most 448 as e4m3 does, in float32.

    Added to a power of two that is 2^20 times its own, a number loses all but three
    bits behind its first, and below 2^-6 all behind 2^-9.
    """
    xp = _module(values)
    exponents = values.view(np.uint32) & np.uint32(0x7F800000)
    powers = xp.maximum(exponents, np.uint32((127 - 6) << 23))
    large = (powers + np.uint32(20 << 23)).view(np.float32)
    return (xp.abs(values) + large) - large


def _error(values: Any) -> Any:
    """Returns e4m3's squared errors in 256ths: whole, for sums in any order."""
    missed = (_module(values).abs(values) - _e4m3_magnitudes(values)) * np.float32(16)
    return (missed * missed).astype(np.int32)


def _best(xp: Any, scales: Any, errors: Sequence[Any], dtype: np.dtype[Any]) -> Any:
    """Returns the scales of `_TRIED` whose weights have the least squared errors."""
    least, best = errors[0].astype(np.float32), scales
    for error, factor in zip(errors[1:], _TRIED[dtype.name][1:], strict=True):
        here = error.astype(np.float32) * (factor * factor)
        best = xp.where(here < least, scales * factor, best)
        least = xp.minimum(here, least)
    return best


def scale_shape(shape: Sequence[int], summed: int, form: str) -> tuple[int, ...]:
    """Returns the shape of scales for an array of this shape; see `round_to`."""
    kind, sizes = _wanted(form), list(shape)
    if not kind.depth:
        del sizes[summed]
        return tuple(sizes)
    sizes[summed] = -(-sizes[summed] // kind.depth)
    sizes[-1] = -(-sizes[-1] // kind.width)
    return tuple(sizes)


def spread(scales: Any, shape: tuple[int, ...], summed: int, kind: Scaling) -> Any:
    """Repeats scales so that every weight of an array of this shape has its own.

    Args:
      scales: As `round_to` gives them.
      shape: Of the weights.
      summed: The axis that products sum over, counted from the end.
      kind: What shares a scale; depth 0 is a whole column.
    """
    xp = _module(scales)
    if not kind.depth:
        return xp.expand_dims(scales, summed)
    rows = xp.repeat(scales, kind.depth, axis=summed)
    each = xp.repeat(rows, kind.width, axis=-1)
    cut = [slice(None)] * len(shape)
    cut[summed], cut[-1] = slice(shape[summed]), slice(shape[-1])
    return each[tuple(cut)]


def _by_blocks(xp: Any, reduce: Any, array: Any, axis: int, block: int) -> Any:
    """Reduces every block along an axis; a last one that is narrower has zeros."""
    if block == 1:
        return array
    axis = axis % array.ndim
    size = array.shape[axis]
    more = [(0, 0)] * array.ndim
    more[axis] = (0, -size % block)
    padded = xp.pad(array, more) if size % block else array
    count = padded.shape[axis] // block
    parts = padded.reshape(*array.shape[:axis], count, block, *array.shape[axis + 1 :])
    return reduce(parts, axis=axis + 1)
