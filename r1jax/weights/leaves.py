"""What leaves a model has, and of which units and tensors each is made.

A leaf is made in units, each a slice of its stacked axes (one layer, or one expert of
one layer). Loading and conversion share them.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from r1jax import quant
from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import QArray, Scheme
from r1jax.typing import PyTree
from r1jax.weights import names
from r1jax.weights.arrays import Stored
from r1jax.weights.names import Path, Piece, Table

_WHOLE = 2**24  # bytes up to which a stacked leaf is one unit
_AT_ONCE = 2**22  # values that are rounded to few bits at once, in whole blocks
_BLOCK = 128  # columns that may share a scale


class Tensor(Protocol):
    """A tensor of a checkpoint, read by rows."""

    def read(self, start: int, stop: int, slot: int | None) -> np.ndarray:
        """Returns rows as numbers (any float dtype); `slot` chooses the expert."""
        ...

    def wrong(self, what: str, why: str, fix: str) -> CheckpointError:
        """Returns an error that names the file and the tensor."""
        ...


class Tensors(Protocol):
    """A checkpoint of single tensors.

    Attributes:
      config: The model.
      table: Where its tensors belong.
    """

    config: ModelConfig
    table: Table

    def tensor(self, name: str) -> Tensor:
        """Returns one tensor, unread."""
        ...


@dataclass(frozen=True)
class Unit:
    """The part of a leaf at `index` on its stacked axes, and what fills it."""

    index: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Leaf:
    """A leaf to be made.

    Attributes:
      path: Where it stands in the tree.
      shape: As it is filled, before it is rounded to few bits.
      dtype: As it is filled.
      form: One of `quant.FORMS`, or None for a plain leaf.
      units: What it is made of.
      arrays: What is stored: one array, or values and scales.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    form: str | None
    units: tuple[Unit, ...]
    arrays: tuple[Stored, ...]

    @property
    def name(self) -> str:
        """The path as errors and the journal write it."""
        return "/".join(self.path)

    @property
    def nbytes(self) -> int:
        """The size on disk."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def stacked(self) -> int:
        """How many leading axes a unit does not have."""
        return len(self.units[0].index)

    def finished(self, unit: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns what is stored of a filled unit."""
        if self.form is None:
            return (unit,)
        wide = quant.as_matrices(self.path, unit)
        values, scales = (np.empty(a.unit_shape, a.dtype) for a in self.arrays)
        step = _AT_ONCE // math.prod(wide.shape[:-1]) // _BLOCK * _BLOCK or _BLOCK
        for start in range(0, wide.shape[-1], step):
            columns = wide[..., start : start + step]
            few = quant.quantise(columns, quant.summed_axis(self.path), self.form)
            values[..., start : start + step] = few.values
            first = start // quant.scaling_of(few).width
            scales[..., first : first + few.scales.shape[-1]] = few.scales
        return values, scales


def plan(
    source: Tensors, dtype: Any, mtp: bool, scheme: Scheme | None = None
) -> list[Leaf]:
    """Lists the leaves and their units, with the dtypes of the tree.

    Args:
      source: The checkpoint.
      dtype: Of all plain leaves but those that are always float32.
      mtp: Whether the multi-token-prediction layers take part.
      scheme: What is rounded to few bits.
    """
    planned = []
    arrays = names.arrays(source.config, dtype, scheme)
    for path, leaf in names.arrays(source.config, dtype).items():
        if path[0] == "mtp" and not mtp:
            continue
        form = scheme.form(path) if scheme else None
        filled = np.dtype(np.float32) if form else leaf.dtype
        whole = math.prod(leaf.shape) * filled.itemsize <= _WHOLE
        units: dict[tuple[int, ...], list[Piece]] = {}
        for piece in source.table.by_leaf[path]:
            units.setdefault(() if whole else piece.index, []).append(piece)
        listed = tuple(Unit(index, tuple(units[index])) for index in sorted(units))
        parts = [(*path, part) for part in names.PARTS] if form else [path]
        stored = tuple(
            Stored(part, stacked=len(listed[0].index), **arrays[part]._asdict())
            for part in parts
        )
        planned.append(Leaf(path, leaf.shape, filled, form, listed, stored))
    return planned


def find(tree: PyTree, path: Path) -> Any:
    """Returns the leaf at a path."""
    for key in path:
        tree = getattr(tree, key) if isinstance(tree, QArray) else tree[key]
    return tree


def insert(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    """Puts a leaf at a path, making the nodes above it."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf
