"""Units of few bits: passed on as released, and undone.

A quantised kernel is a matrix of inputs and outputs, the transpose of the tensor that
Hugging Face's names mean, so its blocks are the release's blocks transposed.
"""

from typing import Any

import numpy as np

from r1jax import quant
from r1jax.quant import QArray
from r1jax.weights.names import Path, Piece


def block_scales(path: Path, scales: np.ndarray, piece: Piece) -> np.ndarray:
    """Returns the part of a leaf's block scales that belongs to one tensor.

    Args:
      path: The leaf.
      scales: Of the whole leaf, or of the unit if `piece.index` is shortened so.
      piece: The tensor's place in it.

    Returns:
      A view with the tensor's own axes: a row for each 128 of its rows.
    """
    scales = scales[piece.index]
    places = [axis.place for axis in piece.turn.leaf if not axis.letters]
    if places:
        experts = quant.part_of(path) == "experts"
        scales = scales[:, places[0]] if experts else scales[places[0]]
    return scales.T


def plain(path: Path, shape: tuple[int, ...], array: np.ndarray) -> np.ndarray:
    """Undoes `quant.as_matrices` for one unit.

    Args:
      path: The leaf.
      shape: The unit's, as it was.
      array: Its values, as matrices.
    """
    if quant.part_of(path) != "experts" and path[-2] == "gate_up":
        array = array.swapaxes(-3, -2)
    return array.reshape(shape)


def widened(
    path: Path, shape: tuple[int, ...], values: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """Returns the float32 unit that values and scales stand for."""
    parts: tuple[Any, Any] = (values, scales)
    few = QArray(*parts)
    return plain(path, shape, quant.widen(few, quant.summed_axis(path)))
