"""A Hugging Face directory or GGUF file becomes an Orbax checkpoint, unit by unit.

The leaves come out of the same stream that direct loading uses: the units in work (1
GB, or one that is larger; the largest of R1 is its embedding, 1.9 GB in bfloat16) and a
band for each thread are in memory, whatever the size of the model. What is finished is
noted in a journal: a conversion that was stopped goes on where it stood.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r1jax.errors import CheckpointError
from r1jax.quant import Scheme
from r1jax.weights import leaves, manifest, safetensors
from r1jax.weights.arrays import Writer, digest_of, digest_of_units
from r1jax.weights.dtypes import chosen_scheme
from r1jax.weights.filling import THREADS, Filler
from r1jax.weights.gguf import GgufCheckpoint
from r1jax.weights.hf import TOKENIZER_FILES, TOKENIZERS, HfCheckpoint
from r1jax.weights.journal import Journal, Unit, is_published, partial_beside
from r1jax.weights.leaves import Leaf
from r1jax.weights.place import check_place, check_room
from r1jax.weights.room import Spares
from r1jax.weights.source import open_source
from r1jax.weights.store import GGUF_TOKENIZER, RELEASED_SCALES, OrbaxCheckpoint


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
      output: The checkpoint.
      tensors: Tensors in the source.
      leaves: Leaves of the checkpoint.
      resumed_leaves: How many of them an earlier run had finished.
      units: Their units.
      resumed_units: How many of them an earlier run had finished.
      bytes_written: The size of what this run wrote.
      largest_leaf: The size of the largest leaf.
      seconds: Wall time.
    """

    output: Path
    tensors: int
    leaves: int
    resumed_leaves: int
    units: int
    resumed_units: int
    bytes_written: int
    largest_leaf: int
    seconds: float

    def __str__(self) -> str:
        """Returns the report in one line."""
        speed = self.bytes_written / max(self.seconds, 1e-9) / 1e6
        resumed = (
            f" (resumed: {self.resumed_leaves} of {self.leaves} leaves, "
            f"{self.resumed_units} of {self.units} units were there)"
        )
        return (
            f"{self.tensors} tensors in, {self.leaves} leaves out, "
            f"{self.bytes_written / 1e9:.2f} GB in {self.seconds:.1f} s "
            f"({speed:.0f} MB/s){resumed * bool(self.resumed_units)}: {self.output}"
        )


def convert(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str = "bfloat16",
    attention_dtype: str | None = None,
    dense_dtype: str | None = None,
    experts_dtype: str | None = None,
) -> Report:
    """Writes a checkpoint, or goes on writing one that was stopped.

    It grows in `OUTPUT.partial` and gets the output's name when it is complete.
    However a conversion ended, the same call goes on with it and ends in the same
    bytes; what is finished is not done again.

    Args:
      source: A Hugging Face directory or a GGUF file.
      output: The checkpoint's directory; not there yet, or empty.
      dtype: One of `DTYPES`. Of the names of few bits see `quant.scheme`; what stays
        plain is bfloat16 then. Some leaves are float32 in every dtype.
      attention_dtype: Of the projections of attention, where it differs.
      dense_dtype: Of dense feed-forward layers and shared experts, where it differs.
      experts_dtype: Of the routed experts, where it differs.

    Raises:
      CheckpointError: The source is broken or has no tokenizer, the output is not
        empty, there is no room for it, another process is writing it, or what was
        begun there came from another source or other options.
      ConfigError: The source is of a model that r1jax does not have, or a dtype is
        not one of `DTYPES`.
    """
    began = time.perf_counter()
    checkpoint, output = _opened(source), Path(output).absolute()
    _check_tokenizer(checkpoint)
    plain, scheme = chosen_scheme(
        checkpoint.config, dtype, attention_dtype, dense_dtype, experts_dtype
    )
    planned = leaves.plan(checkpoint, plain, True, scheme)
    if not is_published(output):
        check_place(output)
    with partial_beside(output, _fingerprint(checkpoint, planned)) as journal:
        published = is_published(output)
        if not published:
            _recheck(journal, planned)
        resumed = set(journal.done)
        if not published:
            check_room(output, _missing(planned, resumed))
            journal.begin()
            _write_leaves(checkpoint, planned, journal)
            _write_rest(checkpoint, planned, journal, plain, scheme)
    return Report(
        output=output,
        tensors=checkpoint.tensor_count,
        leaves=len(planned),
        resumed_leaves=sum(
            all((leaf.name, unit.index) in resumed for unit in leaf.units)
            for leaf in planned
        ),
        units=sum(len(leaf.units) for leaf in planned),
        resumed_units=len(resumed),
        bytes_written=_missing(planned, resumed),
        largest_leaf=max(leaf.nbytes for leaf in planned),
        seconds=time.perf_counter() - began,
    )


Checkpoint = HfCheckpoint | GgufCheckpoint


def _opened(source: str | Path) -> Checkpoint:
    checkpoint = open_source(source)
    if isinstance(checkpoint, OrbaxCheckpoint):
        raise CheckpointError(
            f"{source} is an r1jax checkpoint already",
            "there is nothing to convert",
            "name a Hugging Face directory or a GGUF file",
        )
    return checkpoint


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    if checkpoint.tokenizer_directory is None and not checkpoint.tokenizer_fields:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer ({' or '.join(TOKENIZERS)})",
            "a checkpoint carries its tokenizer, or nobody could use it",
            "copy tokenizer.json and tokenizer_config.json of the release beside it",
        )


def _missing(planned: list[Leaf], resumed: set[Unit]) -> int:
    """Returns the bytes that are not there yet."""
    size = {leaf.name: leaf.nbytes // len(leaf.units) for leaf in planned}
    there = sum(size[name] for name, _ in resumed)
    return sum(leaf.nbytes for leaf in planned) - there


def _fingerprint(checkpoint: Checkpoint, planned: list[Leaf]) -> dict[str, Any]:
    """Says all that the bytes of the output depend on."""
    layout = [
        (a.name, a.shape, a.dtype.name, a.stacked, a.chunk)
        for leaf in planned
        for a in leaf.arrays
    ]
    whole = hashlib.sha256(json.dumps(layout).encode()).hexdigest()
    found = {"dtypes and layout": f"{manifest.FORMAT}-{whole[:16]}"}
    for path in checkpoint.files:
        about = path.stat()
        found[path.name] = f"{about.st_size} bytes of {about.st_mtime_ns}"
    return found


def _recheck(journal: Journal, planned: list[Leaf]) -> None:
    """Reads what the machine may have lost, and forgets what differs."""
    by_name = {leaf.name: leaf for leaf in planned}

    def lost(unit: Unit) -> bool:
        name, index = unit
        try:
            found = [a.open(journal.directory)[index] for a in by_name[name].arrays]
            digests = tuple(digest_of(a.read().result()) for a in found)
        except ValueError:
            return True
        return digests != journal.done[unit]

    with ThreadPoolExecutor(THREADS) as pool:
        doubtful = sorted(journal.doubtful)
        for unit, gone in zip(doubtful, pool.map(lost, doubtful), strict=True):
            if gone:
                journal.forget(unit)


def _write_leaves(
    checkpoint: Checkpoint, planned: list[Leaf], journal: Journal
) -> None:
    """Streams the units that are not there yet."""
    total = sum(leaf.nbytes for leaf in planned)
    progress = tqdm(
        total=total,
        initial=total - _missing(planned, set(journal.done)),
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    spares = Spares()
    with progress, Filler(checkpoint) as filler:
        for leaf in planned:
            progress.set_description(leaf.name)
            left = [u for u in leaf.units if (leaf.name, u.index) not in journal.done]
            writers = [Writer(journal.directory, a) for a in leaf.arrays if left]
            for unit in left:
                array = spares.take(leaf.shape[leaf.stacked :], leaf.dtype)
                finish = _Finish(
                    checkpoint, leaf, unit, writers, array, spares, journal, progress
                )
                filler.fill(unit, array, finish.nbytes, finish)


@dataclass(frozen=True)
class _Finish:
    """What is done with a full unit."""

    checkpoint: Checkpoint
    leaf: Leaf
    unit: leaves.Unit
    writers: list[Writer]
    array: np.ndarray
    spares: Spares
    journal: Journal
    progress: Any

    @property
    def nbytes(self) -> int:
        """The memory it takes: the unit, and what is made of it."""
        made = sum(math.prod(a.unit_shape) * a.dtype.itemsize for a in self.leaf.arrays)
        return self.array.nbytes + (made if self.leaf.form else 0)

    def __call__(self) -> None:
        parts = self.leaf.finished(self.checkpoint, self.unit, self.array)
        digests = tuple(
            writer.write(self.unit.index, part)
            for writer, part in zip(self.writers, parts, strict=True)
        )
        self.spares.give(self.array)
        self.journal.note((self.leaf.name, self.unit.index), digests)
        self.progress.update(self.leaf.nbytes // len(self.leaf.units))


def _write_rest(
    checkpoint: Checkpoint,
    planned: list[Leaf],
    journal: Journal,
    dtype: str,
    scheme: Scheme | None,
) -> None:
    """Writes what lies beside the arrays, the manifest last."""
    directory = journal.directory
    arrays = [array for leaf in planned for array in leaf.arrays]
    manifest.write_metadata(directory, arrays)
    files = [manifest.METADATA, *_write_tokenizer(checkpoint, directory)]
    scales = _plain_scales(checkpoint, scheme)
    if scales:
        safetensors.save(directory / RELEASED_SCALES, scales)
        files.append(RELEASED_SCALES)
    _sweep(directory, {*files, *(name for array in arrays for name in array.files())})
    entries = {
        array.name: manifest.entry(
            array,
            digest_of_units(
                journal.done[leaf.name, unit.index][i] for unit in leaf.units
            ),
        )
        for leaf in planned
        for i, array in enumerate(leaf.arrays)
    }
    source = {"kind": checkpoint.kind, "tensors": checkpoint.tensor_count}
    fields = {
        "config": checkpoint.config.to_dict(),
        "dtype": dtype,
        "scheme": dataclasses.asdict(scheme) if scheme else None,
        "source": source | {"config": checkpoint.fields},
        "generation": checkpoint.generation,
        "leaves": entries,
    }
    manifest.write(directory, fields, files)


def _plain_scales(
    checkpoint: Checkpoint, scheme: Scheme | None
) -> dict[str, np.ndarray]:
    """Returns the scales of fp8 tensors that are plain among others kept as fp8."""
    if scheme is None or scheme.attention != "fp8_blocks":
        return {}
    found = {}
    for name, pieces in checkpoint.table.by_source.items():
        if scheme.form(pieces[0].path) is None:
            scales = checkpoint.tensor(name).scales
            if scales is not None:
                found[name] = scales
    return found


def _sweep(directory: Path, kept: set[str]) -> None:
    """Removes what a killed process was about to write."""
    for path in [path for path in directory.rglob("*") if not path.is_dir()]:
        if path.relative_to(directory).as_posix() not in kept:
            path.unlink()


def _write_tokenizer(checkpoint: Checkpoint, directory: Path) -> list[str]:
    """Writes the tokenizer and returns the names of its files."""
    if checkpoint.tokenizer_directory is None:
        fields = json.dumps(checkpoint.tokenizer_fields, ensure_ascii=False)
        (directory / GGUF_TOKENIZER).write_text(fields, encoding="utf-8")
        return [GGUF_TOKENIZER]
    home = checkpoint.tokenizer_directory
    present = [name for name in TOKENIZER_FILES if (home / name).exists()]
    for name in present:
        shutil.copyfile(home / name, directory / name)
    return present
