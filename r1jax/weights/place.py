"""Whether an output can be written where it is to be, and how it becomes whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1jax.errors import CheckpointError


def check_place(output: Path) -> None:
    """Checks that nothing is in the way.

    Raises:
      CheckpointError: The output is there and not an empty directory, or nothing is
        where it would be made.
    """
    if not output.parent.is_dir():
        raise CheckpointError(
            f"{output.parent} is not a directory",
            "the output is made inside it",
            "create it first, or name another output",
        )
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(
            f"{output} is there already, and not an empty directory",
            "nothing that exists is overwritten",
            "name another output, or remove it first",
        )


@contextmanager
def whole_directory(output: Path) -> Iterator[Path]:
    """Gives a directory to write into, which gets its name when all is there.

    Raises:
      CheckpointError: Something cannot be written; nothing is left.
    """
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        try:
            yield partial
            partial.rename(output)  # an empty directory may be there
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise CheckpointError(
            f"{output} cannot be written",
            str(error),
            "make room, or name an output where you may write",
        ) from None


def check_room(output: Path, needed: int) -> None:
    """Checks that the disk has so many bytes.

    Raises:
      CheckpointError: It has not.
    """
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise CheckpointError(
            f"{output.parent} has {free / 1e9:.1f} GB free",
            f"what is to be written needs {needed / 1e9:.1f} GB",
            "make room, name another output, or choose a smaller dtype",
        )
