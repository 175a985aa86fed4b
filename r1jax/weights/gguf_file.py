"""What a GGUF file holds: its metadata and where each tensor lies.

The layout is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. It is read
here because the `gguf` package's reader makes an object for every string of the
vocabulary: 2.6 s for SmolLM2's 98 MB file, where this takes 0.1 s. Dequantisation is
the package's.
"""

import math
import mmap
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from r1jax.errors import CheckpointError
from r1jax.weights.files import AGAIN, ByteFile
from r1jax.weights.rounded import rounded

Kind = gguf.GGMLQuantizationType
_VALUES = gguf.GGUFValueType
_SCALARS = {
    _VALUES.UINT8: "B",
    _VALUES.INT8: "b",
    _VALUES.UINT16: "H",
    _VALUES.INT16: "h",
    _VALUES.UINT32: "I",
    _VALUES.INT32: "i",
    _VALUES.FLOAT32: "f",
    _VALUES.BOOL: "?",
    _VALUES.UINT64: "Q",
    _VALUES.INT64: "q",
    _VALUES.FLOAT64: "d",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in the file.

    Attributes:
      name: Its name.
      file: The file.
      kind: How its values are quantised.
      shape: Its shape, slowest axis first (the file lists the fastest first).
      start: Its first byte in the file.
    """

    name: str
    file: ByteFile
    kind: Kind
    shape: tuple[int, ...]
    start: int
    scales: None = None  # those of fp8 blocks, which GGUF files do not have
    row_block: int = 1

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def read(self, start: int, stop: int, slot: int | None, dtype: Any) -> np.ndarray:
        """Returns rows, rounded to a dtype; `slot` chooses one of the first axis."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        shape, first = self.shape, self.start
        if slot is not None:
            shape = shape[1:]
            first += slot * math.prod(shape) // block * size
        row = math.prod(shape[1:]) * size  # in bytes, times the block
        count = (stop - start) * row // block
        raw = self.file.read(first + start * row // block, count)
        line = shape[-1] // block * size if len(shape) > 1 else count
        values = gguf.dequantize(raw.reshape(-1, line), self.kind)
        values = values.reshape(stop - start, *shape[1:])
        return rounded(values, dtype, self.wrong)

    def read_fp8(self, start: int, stop: int) -> np.ndarray:
        """Is not asked of a tensor without scales."""
        raise AssertionError(self.name)

    def wrong(self, what: str, why: str, fix: str = AGAIN) -> CheckpointError:
        """Returns the error that names the file and this tensor."""
        where = f"{self.file.path}: tensor {self.name}"
        return CheckpointError(f"{where}: {what}", why, fix)


class GgufFile:
    """A file's metadata and tensors.

    Attributes:
      file: The file.
      fields: All metadata, as plain Python values.
      tensors: All tensors by name.
    """

    def __init__(self, path: Path) -> None:
        """Reads everything but the weights.

        Raises:
          CheckpointError: It is not a GGUF file, is cut short or damaged, or holds a
            kind of quantisation that cannot be read.
        """
        self.file = ByteFile(path)
        if self.file.size < 4 or self.file.read(0, 4).tobytes() != b"GGUF":
            raise CheckpointError(
                f"{path} is not a GGUF file",
                "such a file begins with the letters GGUF",
                "name a GGUF file, or a directory with config.json and safetensors",
            )
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            self.fields, self.tensors = self._parse(_Cursor(mapped))

    def _parse(self, cursor: "_Cursor") -> tuple[dict[str, Any], dict[str, Stored]]:
        try:
            version, tensors, fields = cursor.unpack("IQQ")
            if version not in (2, 3):
                raise self.file.broken(f"has GGUF version {version}, not 2 or 3")
            metadata = {cursor.string(): cursor.value() for _ in range(fields)}
            listed = list(self._tensors(cursor, tensors))
            alignment = metadata.get("general.alignment", 32)
            origin = -(-cursor.position // alignment) * alignment
        except (struct.error, ValueError, TypeError, ZeroDivisionError) as error:
            what = f"has a broken header at byte {cursor.position}: {error}"
            raise self.file.broken(what) from None
        found: dict[str, Stored] = {}
        for name, kind, shape, offset in listed:
            tensor = Stored(name, self.file, kind, shape, origin + offset)
            _check(tensor, found)
            found[name] = tensor
        return metadata, found

    def _tensors(
        self, cursor: "_Cursor", count: int
    ) -> Iterator[tuple[str, Kind, tuple[int, ...], int]]:
        for _ in range(count):
            name = cursor.string()
            (axes,) = cursor.unpack("I")
            shape = cursor.unpack(f"{min(axes, 8)}Q")[::-1]
            kind, offset = cursor.unpack("IQ")
            yield name, Kind(kind), shape, offset


def _check(tensor: Stored, before: Container[str]) -> None:
    if tensor.name in before:
        raise tensor.wrong("is there twice", "names must be unique")
    block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    if not tensor.shape or tensor.shape[-1] % block:
        what = f"{tensor.kind.name} {list(tensor.shape)} has rows of broken blocks"
        raise tensor.wrong(what, f"{tensor.kind.name} packs {block} values of a row")
    end = tensor.start + tensor.nbytes
    if end > tensor.file.size:
        what = f"ends at byte {end}, but the file has {tensor.file.size}"
        raise tensor.wrong(what, "the file is cut short")
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), tensor.kind)
    except NotImplementedError:
        raise tensor.wrong(
            f"is quantised as {tensor.kind.name}",
            "the gguf package cannot read that kind",
            "use a file quantised as Q8_0, Q4_K_M or BF16",
        ) from None


class _Cursor:
    """Takes values off a mapped file, one after another."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.position = 4  # behind the letters GGUF

    def unpack(self, form: str) -> tuple[Any, ...]:
        form = f"<{form}"
        values = struct.unpack_from(form, self._mapped, self.position)
        self.position += struct.calcsize(form)
        return values

    def string(self) -> str:
        (length,) = self.unpack("Q")
        end = self.position + length
        if end > len(self._mapped):
            raise ValueError(f"a text of {length} bytes")
        text = self._mapped[self.position : end].decode("utf-8")
        self.position = end
        return text

    def value(self) -> Any:
        return self._value(_VALUES(self.unpack("I")[0]))

    def _value(self, kind: gguf.GGUFValueType) -> Any:
        if kind == _VALUES.STRING:
            return self.string()
        if kind != _VALUES.ARRAY:
            return self.unpack(_SCALARS[kind])[0]
        inner, count = self.unpack("IQ")
        inner = _VALUES(inner)
        if count > len(self._mapped):
            raise ValueError(f"a list of {count} values")
        if inner in _SCALARS:
            return list(self.unpack(f"{count}{_SCALARS[inner]}"))
        return [self._value(inner) for _ in range(count)]
