"""Where each tensor of a safetensors checkpoint lies: shards, headers, byte ranges.

A safetensors file is 8 bytes of header length, a JSON header with the dtype, shape and
byte range of each tensor, and the bytes. Headers are read here rather than by the
package of that name so that a broken one is reported with its file and tensor, and so
that any rows of a tensor can be read from any thread.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.errors import CheckpointError
from r1jax.weights.files import AGAIN, ByteFile, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes


@dataclass(frozen=True)
class Stored:
    """A tensor on disk.

    Attributes:
      name: Its name.
      file: The shard.
      dtype: As the header names it; not necessarily one of `DTYPES`.
      shape: Its shape.
      start: Its first byte in the file.
    """

    name: str
    file: ByteFile
    dtype: str
    shape: tuple[int, ...]
    start: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Reads some places of the first axis."""
        dtype, inner = DTYPES[self.dtype], self.shape[1:]
        size = math.prod(inner) * dtype.itemsize
        raw = self.file.read(self.start + start * size, (stop - start) * size)
        return raw.view(dtype).reshape(stop - start, *inner)

    def wrong(self, what: str, why: str, fix: str = AGAIN) -> CheckpointError:
        """Returns the error that names the file and this tensor."""
        where = f"{self.file.path}: tensor {self.name}"
        return CheckpointError(f"{where}: {what}", why, fix)


def open_shards(directory: Path) -> dict[str, Stored]:
    """Finds every tensor of a directory.

    Like transformers, takes `model.safetensors` where it is, else the shards that
    `model.safetensors.index.json` names. Only the index's `weight_map` is used: R1's
    index has nothing else.

    Raises:
      CheckpointError: Neither file is there, a shard is missing, leads out of the
        directory or has a broken header, or the index and the shards disagree.
    """
    single = directory / SINGLE
    if single.exists():
        return open_file(single)
    if not (directory / INDEX).exists():
        raise CheckpointError(
            f"{directory} has neither {SINGLE} nor {INDEX}",
            "these files hold a Hugging Face model's tensors",
            "name a directory with safetensors files (older .bin files are not read)",
        )
    tensors, shards = _weight_map(directory), {}
    for name in shard_names(directory):
        path = _inside(directory, name)
        shards[name] = open_file(path)
    for shard, found in shards.items():
        for name in found.keys() - tensors.keys():
            raise found[name].wrong("is not in the index", f"{INDEX} must list it")
        for name, where in tensors.items():
            if where == shard and name not in found:
                raise CheckpointError(
                    f"{directory / shard}: tensor {name}: is not in this file",
                    f"{INDEX} says that it is",
                    AGAIN,
                )
    return {name: shards[shard][name] for name, shard in tensors.items()}


def open_file(path: Path) -> dict[str, Stored]:
    """Finds every tensor of one file.

    Raises:
      CheckpointError: It is missing, or has a broken header.
    """
    return {tensor.name: tensor for tensor in _header(ByteFile(path))}


def shard_names(directory: Path) -> list[str]:
    """Names the files that hold a directory's tensors, there or not.

    Raises:
      CheckpointError: The index is broken.
    """
    if (directory / SINGLE).exists() or not (directory / INDEX).exists():
        return [SINGLE]
    return sorted(set(_weight_map(directory).values()))


def header_of(
    tensors: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]],
) -> tuple[bytes, dict[str, int]]:
    """Returns how a file begins, and each tensor's first byte in it.

    Args:
      tensors: Name, dtype and shape, in the order of the file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, starts = 0, {}
    for name, dtype, shape in tensors:
        starts[name] = end
        end += math.prod(shape) * dtype.itemsize
        offsets = (starts[name], end)
        header[name] = {
            "dtype": _NAMES[dtype.name],
            "shape": shape,
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    first = 8 + len(text)
    whole = len(text).to_bytes(8, "little") + text
    return whole, {name: first + start for name, start in starts.items()}


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a small file at once."""
    header, _ = header_of((name, a.dtype, a.shape) for name, a in arrays.items())
    data = (np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(b"".join((header, *data)))


def _weight_map(directory: Path) -> dict[str, str]:
    path = directory / INDEX
    tensors = read_json(path).get("weight_map")
    if not isinstance(tensors, dict) or not all(
        isinstance(shard, str) and "\0" not in shard for shard in tensors.values()
    ):
        raise CheckpointError(
            f"{path}: weight_map is not a table of tensor and file names",
            "without it nobody knows which shard holds which tensor",
            AGAIN,
        )
    return tensors


def _inside(directory: Path, name: str) -> Path:
    """Returns a shard's path; refuses one that leads elsewhere.

    The hub's cache is made of links from `snapshots/REVISION/` to `blobs/`, so these
    are followed.
    """
    home = Path(os.path.realpath(directory))
    path = home / name
    target = Path(os.path.realpath(path))
    if target.parent not in (home, home.parent.parent / "blobs"):
        raise CheckpointError(
            f"{directory / INDEX}: the shard {name!r} leads to {target}",
            "a checkpoint's files must lie in its own directory",
            "copy the file there, and name it without a path in the index",
        )
    return path


def _header(file: ByteFile) -> Iterator[Stored]:
    """Reads and checks a file's header.

    Raises:
      CheckpointError: As said in `open_shards`.
    """
    if file.size < 8:
        raise file.broken(f"has only {file.size} bytes")
    length = int(file.read(0, 8).view("<u8")[0])
    if length > min(_LONGEST_HEADER, file.size - 8):
        raise file.broken(f"claims a header of {length} bytes in a file of {file.size}")
    try:
        entries = json.loads(file.read(8, length).tobytes())
        tensors = [
            (*_entry(entry), name)
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise file.broken(f"has a broken header: {error!r}") from None
    reached, room = 0, file.size - 8 - length
    for start, stop, dtype, shape, name in sorted(tensors, key=lambda entry: entry[:2]):
        tensor = Stored(name, file, dtype, shape, 8 + length + start)
        size = math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else None
        if stop > room:
            what = f"ends at byte {stop} of the data, but the file has {room}"
            raise tensor.wrong(what, "the file is cut short or its header is wrong")
        if start < reached:
            what = f"starts at byte {start}, inside the tensor before it"
            raise tensor.wrong(what, "two tensors cannot share bytes")
        if size is not None and size != stop - start:
            what = f"has {stop - start} bytes, but {dtype} {list(shape)} needs {size}"
            raise tensor.wrong(what, "the header contradicts itself")
        reached = stop
        yield tensor


def _entry(entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """Takes a header's entry apart: first byte, end, dtype, shape."""
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    numbers = (start, stop, *shape)
    if not all(type(n) is int and n >= 0 for n in numbers) or stop < start:
        raise ValueError(f"offsets {entry['data_offsets']} and shape {list(shape)}")
    return start, stop, str(entry["dtype"]), shape
