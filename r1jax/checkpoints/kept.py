"""Where converted checkpoints are kept: a directory for repository, commit and form.

    ~/.cache/r1jax/checkpoints/OWNER--NAME/COMMIT/FORM

A conversion grows beside its place and is moved there when it is whole (see
`r1jax.weights.journal`), so what has the name can be loaded.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from r1jax.errors import CheckpointError
from r1jax.hub import Repository
from r1jax.quant import PARTS, Scheme
from r1jax.weights.journal import discard, partial_of
from r1jax.weights.manifest import MANIFEST

_VARIABLE, _HOME = "R1JAX_CHECKPOINTS", "~/.cache/r1jax/checkpoints"
_BETWEEN = "--"  # of owner and name, which have no two of them in a row
_PARTIAL, _DELETED = ".partial", ".deleted-"


@dataclass(frozen=True)
class Kept:
    """A kept checkpoint.

    Attributes:
      path: Its directory; not there yet where it is unfinished.
      repository: Whose weights it has; the revision is a commit.
      form: What they are kept as: a dtype, or that of each part.
      whole: Whether it can be loaded; else its conversion stopped, or still runs.
    """

    path: Path
    repository: Repository
    form: str
    whole: bool

    @property
    def nbytes(self) -> int:
        """What it takes on the disk, in bytes."""
        top = self.path if self.whole else partial_of(self.path)
        size = 0
        for folder, _, files in os.walk(top):
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # it may go meanwhile
                    size += os.stat(os.path.join(folder, name)).st_size
        return size


def home() -> Path:
    """Returns the directory of all: R1JAX_CHECKPOINTS, or one in the user's cache."""
    return Path(os.environ.get(_VARIABLE) or _HOME).expanduser().absolute()


def form_of(plain: str, scheme: Scheme | None) -> str:
    """Names a form: "bfloat16", or "attention=int8,dense=int8,experts=int4"."""
    if scheme is None:
        return plain
    forms = {part: getattr(scheme, part) for part in PARTS}
    return ",".join(f"{part}={form}" for part, form in forms.items() if form)


def place(repository: Repository, form: str) -> Path:
    """Returns the directory of a checkpoint, there or not; the revision is a commit."""
    folder = repository.name.replace("/", _BETWEEN)
    return home() / folder / repository.revision / form


def is_whole(path: Path) -> bool:
    """Tells whether a kept checkpoint can be loaded."""
    return (path / MANIFEST).exists()


def all_kept() -> list[Kept]:
    """Lists what is kept, also what is not whole yet."""
    found = {}
    for path in sorted(home().glob("*/*/[!.]*")):
        final = path.with_name(path.name.removesuffix(_PARTIAL))
        name = path.parent.parent.name.replace(_BETWEEN, "/", 1)
        repository = Repository(name, path.parent.name)
        found[final] = Kept(final, repository, final.name, is_whole(final))
    return list(found.values())


def delete(chosen: Iterable[Kept]) -> None:
    """Deletes checkpoints; nobody can begin to load one that is half deleted.

    Raises:
      CheckpointError: One is being written, or may not be deleted.
    """
    for one in chosen:
        try:
            discard(one.path)
            if one.path.exists():
                doomed = one.path.with_name(f"{_DELETED}{os.getpid()}-{one.form}")
                one.path.rename(doomed)
            _sweep(one.path.parent)
        except OSError as error:
            raise CheckpointError(
                f"{one.path} cannot be deleted",
                str(error),
                "remove it as a user who may",
            ) from None


def _sweep(folder: Path) -> None:
    """Removes what is to be deleted, also by a process that was killed."""
    for doomed in folder.glob(f"{_DELETED}*"):
        shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are in them
        folder.rmdir()
        folder.parent.rmdir()
