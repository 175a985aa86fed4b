"""Leaves out of tensors: the one stream that loading and conversion share.

A leaf is made in units, each a slice of its stacked axes (one layer, or one expert of
one layer), and a unit band by band: some rows of a tensor are read, widened where they
are quantised, rounded once to the wanted dtype (to nearest, ties to even), and laid in
their place. Besides the result, only a unit and a band for each thread are in memory.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np

from r1jax import quant
from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import QArray, Scheme
from r1jax.rounding import scale_shape
from r1jax.typing import PyTree
from r1jax.weights import names
from r1jax.weights.names import Path, Piece, Table

_BAND = 2**18  # values: a band of float32 stays in a core's own cache
_FEWEST_ROWS = 32  # of a band: turned, they become runs of neighbours in the leaf
_WHOLE = 2**24  # bytes up to which a stacked leaf is one unit
_ALIGNMENT = 64  # bytes: so that a CPU device takes the array over without a copy
_BITS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


class Tensor(Protocol):
    """A tensor of a checkpoint, read by rows."""

    def read(self, start: int, stop: int, slot: int | None) -> np.ndarray:
        """Returns rows as numbers (any float dtype); `slot` chooses the expert."""
        ...

    def wrong(self, what: str, why: str, fix: str) -> CheckpointError:
        """Returns an error that names the file and the tensor."""
        ...


class BlockTensor(Tensor, Protocol):
    """A matrix [O, I] of float8_e4m3fn with scales for its blocks.

    Attributes:
      scales: What each 128 x 128 block is multiplied by, float32 [O / 128, I / 128].
    """

    scales: np.ndarray

    def read_stored(self, start: int, stop: int) -> np.ndarray:
        """Returns rows as they are stored, float8_e4m3fn."""
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
    """A leaf to be made."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    units: tuple[Unit, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stacked_axes(self) -> int:
        """How many leading axes a unit does not have."""
        return len(self.units[0].index)


def plan(source: Tensors, dtype: Any, mtp: bool) -> list[Leaf]:
    """Lists the leaves and their units, with the dtypes of the tree.

    Args:
      source: The checkpoint.
      dtype: Of all leaves but those that are always float32.
      mtp: Whether the multi-token-prediction layers take part.
    """
    planned = []
    for path, leaf in names.leaves(source.config, dtype).items():
        if path[0] == "mtp" and not mtp:
            continue
        whole = leaf.size * leaf.dtype.itemsize <= _WHOLE
        units: dict[tuple[int, ...], list[Piece]] = {}
        for piece in source.table.by_leaf[path]:
            units.setdefault(() if whole else piece.index, []).append(piece)
        listed = tuple(Unit(index, tuple(units[index])) for index in sorted(units))
        planned.append(Leaf(path, leaf.shape, leaf.dtype, listed))
    return planned


class Filler:
    """Fills units with all cores.

    Attributes:
      source: The checkpoint.
      run: As `map`, on all cores.
    """

    def __init__(self, source: Tensors) -> None:
        """Starts the threads; use as a context."""
        self.source = source
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.run: Callable[..., Iterator[Any]] = self._pool.map

    def __enter__(self) -> "Filler":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the threads, dropping work that has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def fill(self, unit: Unit, out: np.ndarray) -> None:
        """Fills a unit's array; one of float8_e4m3fn with what blocks store.

        Raises:
          CheckpointError: A tensor cannot be read, or holds values that are no
            numbers, or too large for the dtype.
        """

        def work(band: tuple[Piece, Tensor, int, int]) -> None:
            piece, tensor, start, stop = band
            part = out[piece.index[len(unit.index) :]]
            _lay(piece, tensor, start, stop, part)

        for _ in self.run(work, self._bands(unit)):
            pass

    def _bands(self, unit: Unit) -> Iterator[tuple[Piece, Tensor, int, int]]:
        for piece in unit.pieces:
            tensor = self.source.tensor(piece.source)
            rows, step = piece.turn.source_shape[0], piece.turn.row_step
            columns = math.prod(piece.turn.source_shape[1:])
            wanted = max(_FEWEST_ROWS, _BAND // columns)
            band = math.ceil(wanted / step) * step
            for start in range(0, rows, band):
                yield piece, tensor, start, min(start + band, rows)


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
      shardings: A tree of shardings like the parameters (more is allowed); each leaf
        goes to its devices as soon as it is read, so that the host holds one at a time.
      scheme: What is kept in few bits, rounded unit by unit from float32.

    Returns:
      The tree of parameters: numpy arrays, or jax arrays where shardings are given.

    Raises:
      CheckpointError: As said in `Filler.fill`.
    """
    tree: dict[str, Any] = {}
    with Filler(source) as filler:
        for leaf in plan(source, dtype, mtp):
            form = scheme.form(leaf.path) if scheme else None
            array = _few(filler, leaf, form) if form else _filled(filler, leaf)
            if shardings is not None:
                array = jax.device_put(array, find(shardings, leaf.path))
            insert(tree, leaf.path, array)
    return tree


def _filled(filler: Filler, leaf: Leaf) -> np.ndarray:
    array = _aligned(leaf.shape, leaf.dtype)
    for unit in leaf.units:
        filler.fill(unit, array[unit.index])
    return array


def _few(filler: Filler, leaf: Leaf, form: str) -> QArray:
    shapes = jax.eval_shape(
        lambda x: quant.quantise_leaf(leaf.path, x, form),
        jax.ShapeDtypeStruct(leaf.shape, np.float32),
    )
    array: Any = jax.tree.map(lambda x: _aligned(x.shape, np.dtype(x.dtype)), shapes)
    for unit in leaf.units:
        made = few_bits(filler, leaf, unit, form)
        array.values[unit.index], array.scales[unit.index] = made.values, made.scales
    return array


def few_bits(filler: Filler, leaf: Leaf, unit: Unit, form: str) -> QArray:
    """Makes a unit of few bits, in memory as float32 only while it is rounded.

    Blocks of a checkpoint that stores such are kept bit for bit.

    Args:
      filler: Reads the checkpoint.
      leaf: The plain leaf.
      unit: Its part.
      form: One of `quant.FORMS`.

    Returns:
      numpy arrays, laid out as `quant.quantise_leaf` does.

    Raises:
      CheckpointError: As said in `Filler.fill`.
    """
    made = _stored_blocks(filler, leaf, unit) if form == "fp8_blocks" else None
    if made is not None:
        return made
    wide = np.empty(leaf.shape[len(unit.index) :], np.float32)
    filler.fill(unit, wide)
    return quant.quantise_leaf(leaf.path, wide, form, filler.run)


def _stored_blocks(filler: Filler, leaf: Leaf, unit: Unit) -> QArray | None:
    """Returns a unit as the checkpoint stores it, where all of it is fp8 blocks."""
    tensors: list[Any] = [filler.source.tensor(piece.source) for piece in unit.pieces]
    if not all(hasattr(tensor, "read_stored") for tensor in tensors):
        return None
    values = np.empty(leaf.shape[len(unit.index) :], ml_dtypes.float8_e4m3fn)
    filler.fill(unit, values)
    matrices, summed = (
        quant.as_matrices(leaf.path, values),
        quant.summed_axis(leaf.path),
    )
    scales: Any = np.empty(
        scale_shape(matrices.shape, summed, "fp8_blocks"), np.float32
    )
    beside = -3 if summed == -2 else -2  # where gate and up lie, if they do
    for piece, tensor in zip(unit.pieces, tensors, strict=True):
        grid = scales[piece.index[len(unit.index) :]]
        for axis in piece.turn.leaf:
            if not axis.letters:  # gate or up
                grid = np.moveaxis(grid, beside, 0)[axis.place]
        grid[...] = tensor.scales.T
    return QArray(matrices, scales)


def find(tree: PyTree, path: Path) -> Any:
    """Returns the leaf at a path."""
    for key in path:
        tree = tree[key]
    return tree


def insert(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    """Puts a leaf at a path, making the nodes above it."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


def _lay(piece: Piece, tensor: Tensor, start: int, stop: int, out: np.ndarray) -> None:
    """Reads rows, rounds them and lays them in their place."""
    stored: Any = tensor
    if out.dtype == ml_dtypes.float8_e4m3fn:
        values = stored.read_stored(start, stop)
    else:
        values = tensor.read(start, stop, piece.slot)
    band = rounded(values, out.dtype, tensor.wrong)
    x, y = piece.turn.align(band, out, start)
    y[...] = x


def rounded(
    values: np.ndarray, dtype: Any, wrong: Callable[[str, str, str], CheckpointError]
) -> np.ndarray:
    """Rounds to nearest, ties to even.

    Raises:
      CheckpointError: What `wrong` makes of a value that is no number, or too large.
    """
    with np.errstate(over="ignore"):  # told below, with its name
        band = values.astype(dtype, copy=False)
    if not _finite(band):
        finite = np.isfinite(values.astype(np.float32, copy=False)).all()
        raise wrong(
            f"a value is too large for {band.dtype}"
            if finite
            else "a value is no number",
            "one such weight turns every answer into nonsense",
            "use bfloat16 or float32" if finite else "take the released file again",
        )
    return band


def _finite(values: np.ndarray) -> bool:
    """Tells whether no value is infinite or NaN, without a temporary of booleans."""
    kind = _BITS[values.itemsize]
    infinite = np.array(np.inf, values.dtype).view(kind)
    magnitudes = values.view(kind) & kind(np.iinfo(kind).max // 2)
    return bool(magnitudes.max(initial=0) < infinite)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Returns an empty array that starts at a multiple of `_ALIGNMENT`."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + count].view(dtype).reshape(shape)
