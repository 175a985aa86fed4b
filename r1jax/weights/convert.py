"""A Hugging Face directory or GGUF file becomes an Orbax checkpoint, tensor by tensor.

The leaves come out of the same stream that direct loading uses, one unit at a time: at
most two units (the largest of R1 is its embedding, 1.9 GB in bfloat16) and a band for
each thread are in memory, whatever the size of the model.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from r1jax import parameters
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights import leaves, store
from r1jax.weights.gguf import GgufCheckpoint
from r1jax.weights.hf import TOKENIZER_FILES, TOKENIZERS, HfCheckpoint
from r1jax.weights.leaves import Leaf
from r1jax.weights.source import open_source

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
      output: The checkpoint.
      tensors: Tensors in the source.
      leaves: Leaves written.
      bytes_written: Their size.
      largest_leaf: The size of the largest of them.
      seconds: Wall time.
    """

    output: Path
    tensors: int
    leaves: int
    bytes_written: int
    largest_leaf: int
    seconds: float

    def __str__(self) -> str:
        """Returns the report in one line."""
        speed = self.bytes_written / max(self.seconds, 1e-9) / 1e6
        return (
            f"{self.tensors} tensors in, {self.leaves} leaves out, "
            f"{self.bytes_written / 1e9:.2f} GB in {self.seconds:.1f} s "
            f"({speed:.0f} MB/s): {self.output}"
        )


def convert(
    source: str | Path, output: str | Path, *, dtype: str = "bfloat16"
) -> Report:
    """Writes a checkpoint; all of it or none.

    It is made in a directory beside the output, `OUTPUT.partial-PROCESS`, which gets
    the output's name when it is complete and disappears when something fails.

    Args:
      source: A Hugging Face directory or a GGUF file.
      output: The checkpoint's directory; not there yet, or empty.
      dtype: One of `DTYPES`, for all leaves but those that are always float32.

    Raises:
      CheckpointError: The source is broken or has no tokenizer, the output is not
        empty, or there is no room for it.
      ConfigError: The source is of a model that r1jax does not have, or the dtype is
        not one of `DTYPES`.
    """
    began = time.perf_counter()
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}",
            f"weights are kept as {', '.join(DTYPES)}",
            "choose one of them",
        )
    checkpoint, output = _opened(source), Path(output).absolute()
    _check_tokenizer(checkpoint)
    planned = leaves.plan(checkpoint, jnp.dtype(dtype), mtp=True)
    _check_output(output, _size(planned))
    with _made_beside(output) as partial:
        entries = _write_leaves(checkpoint, planned, partial)
        store.write_metadata(partial, planned)
        _write_tokenizer(checkpoint, partial)
        manifest = {
            "format": store.FORMAT,
            "config": checkpoint.config.to_dict(),
            "dtype": dtype,
            "source": {"kind": checkpoint.kind, "tensors": checkpoint.tensor_count},
            "generation": checkpoint.generation,
            "leaves": entries,
        }
        (partial / store.MANIFEST).write_text(json.dumps(manifest, indent=1))
    return Report(
        output=output,
        tensors=checkpoint.tensor_count,
        leaves=len(planned),
        bytes_written=_size(planned),
        largest_leaf=max(leaf.nbytes for leaf in planned),
        seconds=time.perf_counter() - began,
    )


def _size(planned: list[Leaf]) -> int:
    return sum(leaf.nbytes for leaf in planned)


def _opened(source: str | Path) -> HfCheckpoint | GgufCheckpoint:
    checkpoint = open_source(source)
    if isinstance(checkpoint, store.OrbaxCheckpoint):
        raise CheckpointError(
            f"{source} is an r1jax checkpoint already",
            "there is nothing to convert",
            "name a Hugging Face directory or a GGUF file",
        )
    return checkpoint


def _check_tokenizer(checkpoint: HfCheckpoint | GgufCheckpoint) -> None:
    if checkpoint.tokenizer_directory is None and not checkpoint.tokenizer_fields:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer ({' or '.join(TOKENIZERS)})",
            "a checkpoint carries its tokenizer, or nobody could use it",
            "copy tokenizer.json and tokenizer_config.json of the release beside it",
        )


def _check_output(output: Path, needed: int) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(
            f"{output} is there already, and not an empty directory",
            "nothing that exists is overwritten",
            "name another output, or remove it first",
        )
    if not output.parent.is_dir():
        raise CheckpointError(
            f"{output.parent} is not a directory",
            "the checkpoint is made inside it",
            "create it first, or name another output",
        )
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise CheckpointError(
            f"{output.parent} has {free / 1e9:.1f} GB free",
            f"the checkpoint needs {needed / 1e9:.1f} GB",
            "make room, name another output, or choose a smaller dtype",
        )


@contextlib.contextmanager
def _made_beside(output: Path) -> Iterator[Path]:
    """Gives a directory to fill; afterwards it is the output, or gone."""
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        try:
            yield partial
            partial.rename(output)  # onto an empty directory at most
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise CheckpointError(
            f"{output} cannot be written",
            str(error),
            "make room, or name an output where you may write",
        ) from None


def _write_leaves(
    checkpoint: HfCheckpoint | GgufCheckpoint, planned: list[Leaf], directory: Path
) -> dict[str, Any]:
    """Streams the leaves; a unit is written while the next one is filled."""
    axes, entries = parameters.logical_axes(checkpoint.config), {}
    progress = tqdm(
        total=_size(planned),
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with (
        progress,
        leaves.Filler(checkpoint) as filler,
        ThreadPoolExecutor(1) as writing,
    ):
        for leaf in planned:
            progress.set_description("/".join(leaf.path))
            writer = store.LeafWriter(directory, leaf, leaves.find(axes, leaf.path))
            before: Future[None] | None = None
            for unit in leaf.units:
                array = np.empty(leaf.shape[leaf.stacked_axes :], leaf.dtype)
                filler.fill(unit, array)
                if before:
                    before.result()
                before = writing.submit(writer.write, unit.index, array)
                progress.update(array.nbytes)
            if before:
                before.result()
            entries["/".join(leaf.path)] = writer.entry()
    return entries


def _write_tokenizer(
    checkpoint: HfCheckpoint | GgufCheckpoint, directory: Path
) -> None:
    if checkpoint.tokenizer_directory is None:
        fields = json.dumps(checkpoint.tokenizer_fields, ensure_ascii=False)
        (directory / store.GGUF_TOKENIZER).write_text(fields, encoding="utf-8")
        return
    for name in TOKENIZER_FILES:
        if (checkpoint.tokenizer_directory / name).exists():
            shutil.copyfile(checkpoint.tokenizer_directory / name, directory / name)
