"""Parameters straight out of a checkpoint of tensors, without conversion."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format

from r1jax import sharding
from r1jax.quant import QArray, Scheme
from r1jax.typing import PyTree
from r1jax.weights.files import aligned
from r1jax.weights.filling import Filler
from r1jax.weights.leaves import Leaf, Tensors, Unit, find, insert, plan


def load(
    source: Tensors,
    dtype: Any,
    *,
    mtp: bool = False,
    shardings: PyTree = None,
    scheme: Scheme | None = None,
) -> PyTree:
    """Reads all parameters into memory.

    Args:
      source: The checkpoint.
      dtype: Of all plain leaves but those that are always float32.
      mtp: Whether to read the multi-token-prediction layers too.
      shardings: A tree of shardings (or `Format`s) like the parameters (more is
        allowed); each leaf goes to its devices as soon as it is read, so that the host
        holds one at a time.
      scheme: What is rounded to few bits, unit by unit; fp8 blocks stay as released.

    Returns:
      The tree of parameters: numpy arrays, or jax arrays where shardings are given,
      and `QArray`s of them.

    Raises:
      CheckpointError: As said in `Filler.fill`.
    """
    tree: dict[str, Any] = {}
    with Filler(source) as filler:
        for leaf in plan(source, dtype, mtp, scheme):
            arrays = [aligned(a.shape, a.dtype) for a in leaf.arrays]
            for unit in leaf.units:
                if leaf.form is None:
                    filler.fill(unit, arrays[0][unit.index])
                    continue
                filled = np.empty(leaf.shape[leaf.stacked :], leaf.dtype)
                done = _rounding(source, leaf, unit, filled, arrays)
                filler.fill(unit, filled, 2 * filled.nbytes, done)
            filler.drain()
            place = None if shardings is None else find(shardings, leaf.path)
            insert(tree, leaf.path, _leaf(arrays, place))
    return tree


def _rounding(
    source: Tensors, leaf: Leaf, unit: Unit, filled: np.ndarray, arrays: list[Any]
) -> Callable[[], None]:
    """Returns what is done with a unit when it is full."""

    def done() -> None:
        parts = leaf.finished(source, unit, filled)
        for array, part in zip(arrays, parts, strict=True):
            array[unit.index] = part

    return done


def _leaf(arrays: list[Any], place: Any) -> Any:
    """Returns a leaf, where it is wanted."""
    if len(arrays) == 1:
        return _put(arrays[0], place)
    places = (None, None) if place is None else (place.values, place.scales)
    parts = [_put(array, p) for array, p in zip(arrays, places, strict=True)]
    return QArray(*parts)


def _put(array: np.ndarray, place: Any) -> Any:
    if place is None:
        return array
    if isinstance(place, Format):
        return jax.device_put(array, place)
    return sharding.put(array, place)
