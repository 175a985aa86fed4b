"""Byte ranges and JSON out of files, and the errors when a file is broken."""

import json
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.errors import CheckpointError

AGAIN = "copy or download the file again and compare its size and checksum"
_ALIGNMENT = 64  # bytes


class ByteFile:
    """A file that is read by byte range, from any thread.

    Ranges are read, not mapped: mapped pages would count as this process's memory.

    Attributes:
      path: The file.
      size: Its size in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
          CheckpointError: It is not there or cannot be opened.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}",
                "the checkpoint needs this file",
                "check the path, or copy the missing file there",
            ) from None
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns `count` bytes from `start` on.

        Raises:
          CheckpointError: The file ends before, or the disk fails.
        """
        buffer = np.empty(count, np.uint8)
        view, done = buffer.data, 0
        while done < count:
            try:
                got = os.preadv(self._descriptor, [view[done:]], start + done)
            except OSError as error:
                raise self.broken(f"cannot be read: {error.strerror}") from None
            if not got:
                raise self.broken(f"ends before byte {start + count}")
            done += got
        return buffer

    def broken(self, what: str) -> CheckpointError:
        """Returns the error that says what is wrong with this file."""
        return CheckpointError(f"{self.path}: {what}", "the file is damaged", AGAIN)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      CheckpointError: The file is not there, or is not a JSON object.
    """
    file = ByteFile(path)
    try:
        value = json.loads(file.read(0, file.size).tobytes())
    except ValueError as error:
        raise file.broken(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise file.broken("is not a JSON object")
    return value


def some(names: object, limit: int = 5) -> str:
    """Writes names in a row, the rest as a count."""
    listed = sorted(names)  # type: ignore[call-overload]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Returns an empty array that a CPU device takes over without a copy."""
    count = math.prod(shape) * dtype.itemsize
    raw = np.empty(count + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + count].view(dtype).reshape(shape)
