"""How a checkpoint's tensor lies in a leaf of the parameter tree, as one short text.

`"(N H) D -> D N H"` reads: the tensor's rows are N heads of H values each, its columns
are D; the leaf has the axes D, N, H. Each word is a size by name. More is said by

    (N H)      neighbouring axes that one axis of the tensor, or of the leaf, holds
    HW[:H]     only the first H of an axis; HW[H:] only the rest
    0, 1       a fixed place on an axis of the leaf that others fill, as in "D 0 F"
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_AXIS = re.compile(r"\(([\w ]+)\)|(\d)|(\w+)(?:\[(\w*):(\w*)\])?")


@dataclass(frozen=True)
class _Axis:
    """One axis of a leaf.

    Attributes:
      letters: The named axes it holds; none where the place on it is fixed.
      place: The fixed place.
      start: Where the part begins, where only a part of the tensor's axis is taken.
      stop: Where it ends.
    """

    letters: tuple[str, ...]
    place: int = 0
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Turn:
    """A text as above, with the sizes of one model.

    Attributes:
      text: What it was made from.
      source: For each axis of the tensor, the named axes it holds.
      leaf: The axes of the leaf.
      sizes: The size of every named axis.
    """

    text: str
    source: tuple[tuple[str, ...], ...]
    leaf: tuple[_Axis, ...]
    sizes: Mapping[str, int]

    @classmethod
    def parse(cls, text: str, sizes: Mapping[str, int]) -> "Turn":
        """Reads the text; every name in it must be in `sizes`."""
        left, right = text.split(" -> ")
        source = tuple(axis.letters for axis in _axes(left, sizes))
        return cls(text, source, tuple(_axes(right, sizes)), sizes)

    @cached_property
    def source_shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(math.prod(self._sizes(letters)) for letters in self.source)

    @cached_property
    def leaf_shape(self) -> tuple[int, ...]:
        """The shape it has in the leaf; 1 where its place on an axis is fixed."""
        return tuple(
            len(range(math.prod(self._sizes(axis.letters)))[axis.start : axis.stop])
            for axis in self.leaf
        )

    @property
    def row_step(self) -> int:
        """Rows that can only be turned together, such as those of one head."""
        return math.prod(self._sizes(self.source[0][1:]))

    def align(
        self, rows: np.ndarray, leaf: np.ndarray, start: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns views of the two with the same shape, place for place.

        Assigning the first to the second fills the leaf; the other way round, the
        tensor.

        Args:
          rows: Some rows of the tensor, a multiple of `row_step`.
          leaf: The leaf, or its part without the stacked axes.
          start: Number of the first row; a multiple of `row_step`.
        """
        letters = [letter for axis in self.source for letter in axis]
        count = len(rows) // self.row_step
        x = rows.reshape(count, *self._sizes(tuple(letters[1:])))
        y = leaf[tuple(slice(None) if a.letters else a.place for a in self.leaf)]
        held = [axis for axis in self.leaf if axis.letters]
        order = [letter for axis in held for letter in axis.letters]
        for axis in held:
            if (axis.start, axis.stop) != (0, None):
                cut = [slice(None)] * x.ndim
                cut[letters.index(axis.letters[0])] = slice(axis.start, axis.stop)
                x = x[tuple(cut)]
        x = x.transpose([letters.index(letter) for letter in order])
        y = _split(y, [self._sizes(axis.letters) for axis in held])
        window = [slice(None)] * y.ndim
        first = start // self.row_step
        window[order.index(letters[0])] = slice(first, first + count)
        return x, y[tuple(window)]

    def _sizes(self, letters: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in letters)


def _axes(text: str, sizes: Mapping[str, int]) -> list[_Axis]:
    axes = []
    for group, place, name, start, stop in _AXIS.findall(text):
        if place:
            axes.append(_Axis((), int(place)))
        else:
            part = (sizes.get(start, 0), sizes.get(stop))
            axes.append(_Axis(tuple((group or name).split()), 0, *part))
    return axes


def _split(array: np.ndarray, sizes: list[tuple[int, ...]]) -> np.ndarray:
    """Takes grouped axes apart; always a view."""
    shape: list[int] = []
    for size, axis in zip(array.shape, sizes, strict=True):
        shape += axis if len(axis) > 1 else [size]
    view = array.reshape(shape)
    assert np.shares_memory(view, array) or not array.size
    return view
