"""Safetensors files out of a checkpoint's leaves, streamed."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r1jax.errors import CheckpointError
from r1jax.pallas.dequant import FORMS
from r1jax.quant import Scheme
from r1jax.rounding import round_to, spread
from r1jax.weights import few_bits, names
from r1jax.weights.filling import THREADS
from r1jax.weights.fp8 import BLOCK
from r1jax.weights.hf import SCALE
from r1jax.weights.names import Piece
from r1jax.weights.reading import Reader
from r1jax.weights.room import Room
from r1jax.weights.rounded import rounded
from r1jax.weights.safetensors import INDEX, header_of, open_file
from r1jax.weights.store import RELEASED_SCALES, OrbaxCheckpoint, arrays

_SHARD = 5 * 10**9  # bytes of tensors in a file, as transformers has it
_ROOM = 2**30  # bytes of tensors in work; a larger one goes alone


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written.

    Attributes:
      name: Its name.
      shape: Its shape.
      dtype: Its dtype.
      pieces: The parts of leaves that it is made of.
      scales: Whether it is a tensor of block scales.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: tuple[Piece, ...]
    scales: bool = False

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def tensors_of(
    checkpoint: OrbaxCheckpoint, dtype: np.dtype[Any], blocks: bool
) -> Iterator[Tensor]:
    """Lists the tensors in the order of the table."""
    config = checkpoint.config
    table = names.table(config, names.hf_layout(config))
    plain = names.arrays(config, dtype)
    for name, shape in table.shapes.items():
        pieces = tuple(table.by_source[name])
        if not (blocks and table.may_be_fp8(name)):
            yield Tensor(name, shape, plain[pieces[0].path].dtype, pieces)
            continue
        yield Tensor(name, shape, np.dtype("float8_e4m3fn"), pieces)
        counts = tuple(-(-size // BLOCK) for size in shape)
        yield Tensor(name + SCALE, counts, np.dtype(np.float32), pieces, True)


def shards_of(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Parts the tensors into files of about 5 GB."""
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if size and size + tensor.nbytes > _SHARD:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def write_shards(
    checkpoint: OrbaxCheckpoint,
    directory: Path,
    shards: list[list[Tensor]],
    total: int,
) -> None:
    """Writes the files, and their index where there are several."""
    digits = len(shards)
    files = [
        "model.safetensors"
        if digits == 1
        else f"model-{i + 1:05d}-of-{digits:05d}.safetensors"
        for i in range(digits)
    ]
    progress = tqdm(
        total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
    )
    with progress, _Maker(checkpoint) as maker:
        for file, shard in zip(files, shards, strict=True):
            progress.set_description(file)
            maker.write(directory / file, shard, progress)
    if digits > 1:
        weight_map = {
            tensor.name: file
            for file, shard in zip(files, shards, strict=True)
            for tensor in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2))


class _Maker:
    """Makes tensors out of leaves, all cores at once."""

    def __init__(self, checkpoint: OrbaxCheckpoint) -> None:
        self._scheme = checkpoint.scheme or Scheme()
        stored = arrays(checkpoint.config, checkpoint.manifest)
        self._stored = {array.path: array for array in stored}
        self._plain = names.arrays(checkpoint.config, "float32")
        self._reader = Reader(checkpoint.place)
        beside = checkpoint.path / RELEASED_SCALES
        self._released = open_file(beside) if beside.exists() else {}
        self._pool, self._room = ThreadPoolExecutor(THREADS), Room(_ROOM)

    def __enter__(self) -> "_Maker":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error:
            self._room.fail(error)
        self._pool.shutdown(cancel_futures=error is not None)

    def write(self, path: Path, tensors: list[Tensor], progress: Any) -> None:
        """Writes one file."""
        header, starts = header_of((t.name, t.dtype, t.shape) for t in tensors)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(file, header, 0)

            def one(tensor: Tensor) -> None:
                with self._room.held(2 * tensor.nbytes):
                    values = self._make(tensor)
                    raw = values.reshape(-1).view(np.uint8).data
                    _write_all(file, raw, starts[tensor.name])
                progress.update(tensor.nbytes)

            for _ in self._pool.map(one, tensors):
                pass
        finally:
            os.close(file)

    def _make(self, tensor: Tensor) -> np.ndarray:
        fp8 = tensor.scales or tensor.dtype.name == "float8_e4m3fn"
        if fp8 and self._scheme.form(tensor.pieces[0].path) is None:
            values, scales = self._rounded(tensor)
            return scales if tensor.scales else values
        if tensor.scales:
            (piece,) = tensor.pieces
            return np.ascontiguousarray(self._block_scales(piece))
        return self._filled(tensor.pieces, tensor.shape, tensor.dtype)

    def _filled(
        self, pieces: tuple[Piece, ...], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> np.ndarray:
        out = np.empty(shape, dtype)
        for piece in pieces:
            rows, part = piece.turn.align(out, self._unit(piece, dtype))
            rows[...] = part
        return out

    def _rounded(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns fp8 values and scales of a tensor that is kept as floats.

        With the scales that it was released with, the values are those of the release:
        a bfloat16 is within 2^-9 of a value times its scale, and so nearer to that
        value than to any other.
        """
        name = tensor.name.removesuffix(SCALE)
        turn = tensor.pieces[0].turn
        wide = self._filled(tensor.pieces, turn.source_shape, np.dtype(np.float32))
        if name not in self._released:
            return round_to(wide, -2, "fp8_blocks")
        stored = self._released[name]
        scales = stored.rows(0, stored.shape[0])
        kind = FORMS["fp8_blocks"].scaling
        assert kind is not None
        each = spread(np.where(scales > 0, scales, 1), wide.shape, -2, kind)
        return (wide / each).astype("float8_e4m3fn"), scales

    def _unit(self, piece: Piece, dtype: np.dtype[Any]) -> np.ndarray:
        """Returns the part of a leaf that a piece lies in, as plain floats or fp8."""
        path, index = piece.path, piece.index
        shape = self._plain[path].shape[len(index) :]
        if self._scheme.form(path) is None:
            return self._read(path, index, dtype)
        values = self._read((*path, "values"), index, None)
        if dtype == values.dtype:
            return few_bits.plain(path, shape, values)
        scales = self._read((*path, "scales"), index, None)
        wide = few_bits.widened(path, shape, values, scales)
        return rounded(wide, dtype, _wrong(path))

    def _block_scales(self, piece: Piece) -> np.ndarray:
        scales = self._read((*piece.path, "scales"), piece.index, None)
        inside = dataclasses.replace(piece, index=())
        return few_bits.block_scales(piece.path, scales, inside)

    def _read(self, path: names.Path, index: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self._reader.part(self._stored[path], index, dtype)


def _wrong(path: names.Path) -> Any:
    return lambda what, why, fix: CheckpointError(
        f"leaf {'/'.join(path)}: {what}", why, fix
    )


def _write_all(file: int, raw: Any, start: int) -> None:
    view = memoryview(raw)
    while view:
        done = os.pwrite(file, view, start)
        view, start = view[done:], start + done
