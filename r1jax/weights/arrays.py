"""One array of a checkpoint on disk: its chunks, its files, writing and reading.

Arrays are zarr version 3, a directory each, a file for each chunk, every chunk with a
CRC-32C at its end. A unit, the array at one place of its stacked axes, is written and
read for itself.
"""

import contextlib
import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from r1jax.errors import CheckpointError
from r1jax.weights.bucket import Place, folder_of, reason
from r1jax.weights.names import Path as TreePath

_CHUNK = 2**26  # bytes above which a chunk is cut
# Logical axes that some mesh cuts, so that a device need not read its neighbours' part.
_CUT = ("vocab", "heads", "kv_heads", "mlp", "expert_mlp")
DESCRIPTION = "zarr.json"
# Waiting for the disk after each chunk takes three times as long. A process that is
# killed loses nothing by it: what it wrote is the kernel's. See docs/weights.md.
_WRITING = ts.Context({"file_io_sync": False})
# Two numbers of four bits lie in a byte each; compressed, in half of it.
_PACKED = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4",
        "clevel": 1,
        "shuffle": "bitshuffle",
        "typesize": 1,
        "blocksize": 0,
    },
}


@dataclass(frozen=True)
class Stored:
    """An array's place and layout on disk.

    Attributes:
      path: In the tree; joined by dots it is the directory's name.
      shape: Its shape.
      dtype: Its dtype.
      stacked: How many leading axes a unit does not have.
      axes: The logical axes, by which chunks are cut.
    """

    path: TreePath
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stacked: int
    axes: tuple[str | None, ...]

    @property
    def name(self) -> str:
        """The path as errors and the manifest write it."""
        return "/".join(self.path)

    @property
    def folder(self) -> str:
        """The directory's name."""
        return ".".join(self.path)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of one unit."""
        return self.shape[self.stacked :]

    @property
    def unit_bytes(self) -> int:
        """The size of one unit on disk."""
        bits = 4 if self.packed else 8 * self.dtype.itemsize
        return -(-math.prod(self.unit_shape) * bits // 8)

    @property
    def nbytes(self) -> int:
        """The size on disk."""
        return math.prod(self.shape[: self.stacked]) * self.unit_bytes

    @property
    def packed(self) -> bool:
        """Whether two values take a byte on disk, though one each in memory."""
        return self.dtype.name == "int4"

    @property
    def chunk(self) -> tuple[int, ...]:
        """One unit, cut along the axes that meshes cut, halving, until it is small."""
        shape = [1] * self.stacked + list(self.shape[self.stacked :])
        for axis in [i for i, name in enumerate(self.axes) if name in _CUT]:
            if axis < self.stacked:
                continue
            while math.prod(shape) * self.dtype.itemsize > _CHUNK and not (
                shape[axis] % 2
            ):
                shape[axis] //= 2
        return tuple(shape)

    def units(self) -> Iterator[tuple[int, ...]]:
        """Lists the places of the units in order."""
        return itertools.product(*(range(n) for n in self.shape[: self.stacked]))

    def files(self) -> Iterator[str]:
        """Lists the files of the finished array, under the checkpoint's directory."""
        yield f"{self.folder}/{DESCRIPTION}"
        counts = (n // m for n, m in zip(self.shape, self.chunk, strict=True))
        for place in itertools.product(*(range(count) for count in counts)):
            yield "/".join((self.folder, "c", *map(str, place)))

    def open(self, place: Place, context: ts.Context | None = None) -> Any:
        """Opens the array for reading.

        Raises:
          ValueError: It is missing, broken, or of another shape or dtype.
        """
        return ts.open(
            {
                "driver": "zarr3",
                "kvstore": folder_of(place, self.folder),
                "fill_missing_data_reads": False,
                "recheck_cached_data": "open",
            },
            context=context,
            open=True,
            shape=self.shape,
            dtype=ts.dtype(self.dtype),
        ).result()


class Writer:
    """Writes one array, unit by unit in any order, from any thread."""

    def __init__(self, directory: Path, stored: Stored) -> None:
        """Makes the array, or opens it where it was begun.

        Raises:
          CheckpointError: The disk is full or fails.
        """
        self.stored = stored
        codecs: list[dict[str, Any]] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            *([_PACKED] if stored.packed else []),
            {"name": "crc32c"},
        ]
        grid = {"chunk_shape": list(stored.chunk)}
        with self._told():
            self._array = ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": folder_of(directory, stored.folder),
                    "metadata": {
                        "shape": list(stored.shape),
                        "data_type": stored.dtype.name,
                        "chunk_grid": {"name": "regular", "configuration": grid},
                        "codecs": codecs,
                    },
                    "create": True,
                    "open": True,
                    "store_data_equal_to_fill_value": True,
                },
                context=_WRITING,
            ).result()

    def write(self, index: tuple[int, ...], unit: np.ndarray) -> str:
        """Writes a unit and returns its digest; only then may the array change.

        Raises:
          CheckpointError: The disk is full or fails.
        """
        with self._told():
            # Without a copy. No chunk is written twice, so that nothing reads again
            # what tensorstore may keep of it.
            written = self._array[index].write(
                unit, can_reference_source_data_indefinitely=True
            )
            digest = digest_of(unit)
            written.result()
        return digest

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tells the user of a failing disk."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"leaf {self.stored.name} cannot be written",
                reason(error),
                "make room on the disk and start again, or choose another output",
            ) from None


def digest_of(unit: np.ndarray) -> str:
    """Returns the SHA-256 of a unit's bytes, in C order."""
    raw = np.ascontiguousarray(unit).view(np.uint8).reshape(-1)
    return hashlib.sha256(raw.data).hexdigest()


def digest_of_units(digests: Iterator[str]) -> str:
    """Returns the digest of a whole array: that of its units' digests, in order."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(bytes.fromhex(digest))
    return total.hexdigest()
