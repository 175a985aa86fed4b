"""Fills units out of tensors, with all cores and in bounded memory.

A unit is filled band by band: some rows of a tensor are read, widened where they are
quantised, rounded once to the wanted dtype (to nearest, ties to even), and laid in
their place.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from r1jax.errors import CheckpointError
from r1jax.weights.leaves import Tensor, Tensors, Unit
from r1jax.weights.names import Piece
from r1jax.weights.room import Room

THREADS = min(8, os.cpu_count() or 1)
_BAND = 2**18  # values: a band of float32 stays in a core's own cache
_FEWEST_ROWS = 32  # of a band: turned, they become runs of neighbours in the leaf
_ROOM = 2**30  # bytes of the units in work; a larger one has all of it to itself
_BITS: dict[int, Any] = {2: np.uint16, 4: np.uint32}


class Filler:
    """Fills units with all cores, several units at a time.

    Memory is bounded: a unit waits until those in work leave room for it.
    """

    def __init__(self, source: Tensors) -> None:
        """Starts the threads; use as a context, which ends when all is done."""
        self._source = source
        self._pool, self._room = ThreadPoolExecutor(THREADS), Room(_ROOM)
        self._guard = threading.Lock()

    def __enter__(self) -> "Filler":
        """Returns itself."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Waits for what is in work; drops it if something failed."""
        if error:
            self._room.fail(error)
        self._pool.shutdown(cancel_futures=error is not None)
        if not error and self._room.failure:
            raise self._room.failure

    def fill(
        self,
        unit: Unit,
        out: np.ndarray,
        nbytes: int = 0,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts to fill a unit's array, as soon as there is room.

        Args:
          unit: What fills it.
          out: The array, not touched yet, so that it takes no memory before.
          nbytes: The memory it takes until `done` returns; 0 for none of its own.
          done: Called on another thread when the array is full.

        Raises:
          CheckpointError: This or an earlier unit has a tensor that cannot be read, or
            with values that are no numbers, or too large for the dtype.
        """
        self._room.enter(nbytes)
        bands = list(self._bands(unit))
        job = _Job(unit, out, nbytes, done, len(bands))
        for band in bands:
            self._pool.submit(self._work, job, *band)

    def drain(self) -> None:
        """Waits until all units are done.

        Raises:
          CheckpointError: As said in `fill`.
        """
        self._room.drain()

    def _work(
        self, job: "_Job", piece: Piece, tensor: Tensor, start: int, stop: int
    ) -> None:
        if self._room.failure:
            return
        try:
            part = job.out[piece.index[len(job.unit.index) :]]
            _lay(piece, tensor, start, stop, part)
            with self._guard:
                job.bands -= 1
                last = not job.bands
            if last:
                job.done()
                self._room.leave(job.nbytes)
        except BaseException as error:
            self._room.fail(error)

    def _bands(self, unit: Unit) -> Iterator[tuple[Piece, Tensor, int, int]]:
        for piece in unit.pieces:
            tensor = self._source.tensor(piece.source)
            rows, step = piece.turn.source_shape[0], piece.turn.row_step
            columns = math.prod(piece.turn.source_shape[1:])
            wanted = max(_FEWEST_ROWS, _BAND // columns)
            band = math.ceil(wanted / step) * step
            for start in range(0, rows, band):
                yield piece, tensor, start, min(start + band, rows)


@dataclass
class _Job:
    """A unit in work, and how many of its bands are not laid yet."""

    unit: Unit
    out: np.ndarray
    nbytes: int
    done: Callable[[], None]
    bands: int


def _lay(piece: Piece, tensor: Tensor, start: int, stop: int, out: np.ndarray) -> None:
    """Reads rows, rounds them and lays them in their place."""
    if out.dtype.name == "float8_e4m3fn":
        band = _checked_fp8(tensor.read_fp8(start, stop), tensor)
    else:
        band = rounded(tensor.read(start, stop, piece.slot), out.dtype, tensor.wrong)
    x, y = piece.turn.align(band, out, start)
    y[...] = x


def _checked_fp8(band: np.ndarray, tensor: Tensor) -> np.ndarray:
    if ((band.view(np.uint8) & 0x7F) == 0x7F).any():
        raise _no_number(tensor.wrong)
    return band


Wrong = Callable[[str, str, str], CheckpointError]


def _no_number(wrong: Wrong) -> CheckpointError:
    return wrong(
        "a value is no number",
        "one such weight turns every answer into nonsense",
        "take the released file again",
    )


def rounded(values: np.ndarray, dtype: Any, wrong: Wrong) -> np.ndarray:
    """Rounds to nearest, ties to even.

    Raises:
      CheckpointError: What `wrong` makes of a value that is no number, or too large.
    """
    with np.errstate(over="ignore"):  # told below, with its name
        band = values.astype(dtype, copy=False)
    if not _finite(band):
        if not np.isfinite(values.astype(np.float32, copy=False)).all():
            raise _no_number(wrong)
        raise wrong(
            f"a value is too large for {band.dtype}",
            "one such weight turns every answer into nonsense",
            "use bfloat16 or float32",
        )
    return band


def _finite(values: np.ndarray) -> bool:
    """Tells whether no value is infinite or NaN, without a temporary of booleans."""
    kind = _BITS[values.itemsize]
    infinite = np.array(np.inf, values.dtype).view(kind)
    magnitudes = values.view(kind) & kind(np.iinfo(kind).max // 2)
    return bool(magnitudes.max(initial=0) < infinite)
