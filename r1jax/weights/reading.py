"""Arrays out of a checkpoint, side by side, to where they are wanted.

What is wanted of an array is read in pieces of whole layers, each of which is on its
device before the next is read, so that a host never holds what its devices do.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.experimental.layout import Format

from r1jax.errors import CheckpointError
from r1jax.weights import bucket
from r1jax.weights.arrays import Stored
from r1jax.weights.files import aligned
from r1jax.weights.room import Room
from r1jax.weights.rounded import rounded

_ROOM = 2**30  # bytes on the host at once
_PIECE = 2**27  # bytes above which a slice is cut into its layers
_READERS = 8  # threads: they mostly wait for the disk
# What neighbours' slices share of a chunk is read once, if they come close together.
_CACHE = 2**28
Place = tuple[slice, ...]


class Reader:
    """Reads arrays of one checkpoint; use as a context, which ends when all is read."""

    def __init__(self, place: bucket.Place, room: int = _ROOM) -> None:
        """Starts the threads."""
        self._checkpoint, self._room = place, Room(room)
        self._pool = ThreadPoolExecutor(_READERS)
        cores = os.cpu_count() or 1
        self._context = bucket.context(
            cache_pool={"total_bytes_limit": _CACHE},
            data_copy_concurrency={"limit": cores},
            file_io_concurrency={"limit": _READERS},
        )

    def __enter__(self) -> "Reader":
        """Returns itself."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Waits for what is in work; drops what has not begun if something failed."""
        if error:
            self._room.fail(error)
        self._pool.shutdown(cancel_futures=error is not None)

    def read(self, stored: Stored, dtype: Any, sharding: Any) -> Callable[[], Any]:
        """Starts to read an array.

        Args:
          stored: The array.
          dtype: What it is rounded to.
          sharding: Where it goes, a sharding or a `Format`; None for a numpy array.

        Returns:
          A function that waits for the array.
        """
        source = self._source(stored, dtype)
        if sharding is None:
            return self._to_host(source)
        layout = None
        if isinstance(sharding, Format):
            sharding, layout = sharding.sharding, sharding.layout
        places = sharding.addressable_devices_indices_map(stored.shape)
        holders: dict[tuple[Any, ...], list[Any]] = {}
        for device, place in places.items():
            bounds = (
                cut.indices(n) for cut, n in zip(place, stored.shape, strict=True)
            )
            holders.setdefault(tuple(bounds), []).append(device)
        waiting = [
            self._pool.submit(
                self._place,
                source,
                tuple(slice(*bound) for bound in bounds),
                [_on(device, layout) for device in devices],
            )
            for bounds, devices in holders.items()
        ]

        def ready() -> jax.Array:
            parts = [part for future in waiting for part in future.result()]
            return jax.make_array_from_single_device_arrays(
                stored.shape, sharding, parts
            )

        return ready

    def part(
        self, stored: Stored, index: tuple[int, ...], dtype: Any = None
    ) -> np.ndarray:
        """Reads what lies at a place of the leading axes, at once.

        Args:
          stored: The array.
          index: The place.
          dtype: What it is rounded to; None for what is stored.
        """
        source = self._source(stored, stored.dtype if dtype is None else dtype)
        place = tuple(slice(i, i + 1, 1) for i in index) + tuple(
            slice(0, n, 1) for n in stored.shape[len(index) :]
        )
        return source.read(place).reshape(stored.shape[len(index) :])

    def _source(self, stored: Stored, dtype: Any) -> "_Source":
        return _Source(self._checkpoint, stored, np.dtype(dtype), self._context)

    def _to_host(self, source: "_Source") -> Callable[[], np.ndarray]:
        out = aligned(source.stored.shape, source.dtype)

        def work(piece: Place) -> None:
            with self._failing(), self._room.held(source.nbytes(piece)):
                out[piece] = source.read(piece)

        whole = tuple(slice(0, n, 1) for n in out.shape)
        waiting = [self._pool.submit(work, piece) for piece in _pieces(source, whole)]

        def ready() -> np.ndarray:
            for future in waiting:
                future.result()
            return out

        return ready

    def _place(
        self, source: "_Source", place: Place, targets: list[Any]
    ) -> list[jax.Array]:
        """Brings one slice to the devices that hold it."""
        pieces = _pieces(source, place)
        with self._failing():
            if len(pieces) == 1:
                with self._room.held(source.nbytes(place)):
                    values = source.read(place)
                    return jax.block_until_ready(
                        [jax.device_put(values, target) for target in targets]
                    )
            shape = tuple(cut.stop - cut.start for cut in place)
            parts = [_empty(shape, source.dtype, target) for target in targets]
            for piece in pieces:
                first = np.int32(piece[0].start - place[0].start)
                with self._room.held(source.nbytes(piece)):
                    values = source.read(piece)
                    parts = [
                        _laid(part, jax.device_put(values, target), first, target)
                        for part, target in zip(parts, targets, strict=True)
                    ]
                    jax.block_until_ready(parts)
            return parts

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Lets an error end what waits for room."""
        try:
            yield
        except BaseException as error:
            self._room.fail(error)
            raise


@dataclass(frozen=True)
class _Source:
    """An array on disk, and what its values are rounded to."""

    checkpoint: bucket.Place
    stored: Stored
    dtype: np.dtype[Any]
    context: ts.Context

    def nbytes(self, place: Place) -> int:
        """Returns the host's memory for a slice: as stored, and as wanted."""
        count = math.prod(cut.stop - cut.start for cut in place)
        sizes = {self.stored.dtype: self.stored.dtype.itemsize}
        return count * sum((sizes | {self.dtype: self.dtype.itemsize}).values())

    def read(self, place: Place) -> np.ndarray:
        """Reads a slice.

        Raises:
          CheckpointError: A file is missing, cut short or changed, or a value is too
            large for the dtype.
        """
        where = f"{self.checkpoint}: leaf {self.stored.name}"
        try:
            values = np.asarray(self._array[place].read().result())
        except ValueError as error:
            raise CheckpointError(
                f"{where} cannot be read",
                bucket.reason(error),
                "copy the checkpoint again, or convert again",
            ) from None
        if values.dtype == self.dtype:
            return values
        return rounded(
            values, self.dtype, lambda a, b, c: CheckpointError(f"{where}: {a}", b, c)
        )

    @functools.cached_property
    def _array(self) -> Any:
        return self.stored.open(self.checkpoint, self.context)


def _pieces(source: _Source, place: Place) -> list[Place]:
    """Cuts a large slice along its first axis."""
    layers = range(place[0].start, place[0].stop)
    if not layers:
        return [place]
    each = source.nbytes((slice(0, 1), *place[1:]))
    step = max(1, _PIECE // max(1, each)) if source.stored.stacked else len(layers)
    return [
        (slice(first, min(first + step, layers.stop)), *place[1:])
        for first in layers[::step]
    ]


def _on(device: Any, layout: Any) -> Any:
    """Returns what puts an array on one device, lying as asked."""
    single = jax.sharding.SingleDeviceSharding(device)
    return single if layout is None else Format(layout, single)


@functools.cache
def _maker(shape: tuple[int, ...], dtype: np.dtype[Any], target: Any) -> Any:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=target)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], target: Any) -> jax.Array:
    return _maker(shape, dtype, target)()


@functools.cache
def _layer(target: Any) -> Any:
    def lay(whole: jax.Array, part: jax.Array, first: Any) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, first, 0)

    return jax.jit(lay, donate_argnums=0, out_shardings=target)


def _laid(whole: jax.Array, part: jax.Array, first: Any, target: Any) -> jax.Array:
    """Lays some layers in their place, in the same memory."""
    return _layer(target)(whole, part, first)
