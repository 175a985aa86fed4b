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

from r1jax.weights.host import in_order
from r1jax.weights.leaves import Tensor, Tensors, Unit
from r1jax.weights.names import Piece
from r1jax.weights.room import Room
from r1jax.weights.rounded import checked_fp8

THREADS = min(8, os.cpu_count() or 1)
_BAND = 2**18  # values: a band of float32 stays in a core's own cache
_FEWEST_ROWS = 32  # of a band: turned, they become runs of neighbours in the leaf
_ROOM = 2**30  # bytes of the units in work; a larger one has all of it to itself


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
            rows = piece.turn.source_shape[0]
            step = math.lcm(piece.turn.row_step, tensor.row_block)
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
        band = checked_fp8(tensor.read_fp8(start, stop), tensor.wrong)
    else:
        band = tensor.read(start, stop, piece.slot, out.dtype)
    x, y = piece.turn.align(band, out, start)
    y[...] = in_order(x)
