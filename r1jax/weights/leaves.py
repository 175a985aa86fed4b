"""What leaves a model has, and of which units and tensors each is made.

A leaf is made in units, each a slice of its stacked axes (one layer, or one expert of
one layer). Loading and conversion share them.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from r1jax import quant
from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import QArray, Scheme
from r1jax.typing import PyTree
from r1jax.weights import few_bits, names
from r1jax.weights.arrays import Stored
from r1jax.weights.names import Path, Piece, Table

_WHOLE = 2**24  # bytes up to which a stacked leaf is one unit
Parts = tuple[np.ndarray, ...]


class Tensor(Protocol):
    """A tensor of a checkpoint, read by rows."""

    @property
    def scales(self) -> np.ndarray | None:
        """Those of its fp8 blocks of 128 x 128; None where it is not stored so."""
        ...

    @property
    def row_block(self) -> int:
        """Rows that are best read together, and from a multiple of that on."""
        ...

    def read(self, start: int, stop: int, slot: int | None, dtype: Any) -> np.ndarray:
        """Returns rows, rounded to a dtype; `slot` chooses the expert.

        Raises:
          CheckpointError: A value is no number, or too large for the dtype.
        """
        ...

    def read_fp8(self, start: int, stop: int) -> np.ndarray:
        """Returns rows of fp8 values without their scales."""
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
      dtype: As it is filled: float32, or fp8 as released, before it is few bits.
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

    @property
    def passed_on(self) -> bool:
        """Whether the tensors' own fp8 values and scales are stored as they are."""
        return self.dtype.name == "float8_e4m3fn"

    def finished(self, source: Tensors, unit: Unit, filled: np.ndarray) -> Parts:
        """Returns what is stored of a filled unit."""
        if self.form is None:
            return (filled,)
        if not self.passed_on:
            few = quant.quantise_leaf(self.path, filled, self.form)
            return np.asarray(few.values), np.asarray(few.scales)
        values, scales = (np.empty(a.unit_shape, a.dtype) for a in self.arrays)
        values[...] = quant.as_matrices(self.path, filled)
        for piece in unit.pieces:
            inside = dataclasses.replace(piece, index=piece.index[len(unit.index) :])
            part = few_bits.block_scales(self.path, scales, inside)
            part[...] = source.tensor(piece.source).scales
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
        pieces = source.table.by_leaf[path]
        filled = leaf.dtype
        if form:
            released = form == "fp8_blocks" and all(
                source.tensor(piece.source).scales is not None for piece in pieces
            )
            filled = np.dtype("float8_e4m3fn" if released else np.float32)
        whole = math.prod(leaf.shape) * filled.itemsize <= _WHOLE
        units: dict[tuple[int, ...], list[Piece]] = {}
        for piece in pieces:
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
