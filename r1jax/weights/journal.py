"""A conversion under way: what is finished, and that only one process works on it.

Beside the output lies `OUTPUT.partial` with the growing checkpoint, a lock, and a
journal, a line of JSON for each unit that is written. A line is written behind its
unit, so a killed process leaves at most work that no line speaks of, which is done
again. Only a machine that fails can lose what a line speaks of: units noted under
another boot of the machine are read and compared with their digests first.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1jax.errors import CheckpointError

JOURNAL, LOCK, INSIDE = "journal", "lock", "checkpoint"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
Unit = tuple[str, tuple[int, ...]]
Digests = tuple[str, ...]


class Journal:
    """The finished units of a conversion, in memory and on disk.

    Attributes:
      directory: The growing checkpoint.
      done: The digests of the arrays of each finished unit.
      doubtful: Units whose data may have been lost with the machine.
    """

    def __init__(self, partial: Path, fingerprint: Mapping[str, Any]) -> None:
        """Reads what was noted before; the caller holds the lock.

        Raises:
          CheckpointError: It belongs to another conversion.
        """
        self.directory = partial / INSIDE
        self.done: dict[Unit, Digests] = {}
        self.doubtful: set[Unit] = set()
        self._path, self._guard = partial / JOURNAL, threading.Lock()
        self._fingerprint, self._file = fingerprint, -1
        lines = _lines(self._path)
        before = next(lines, None)
        if before is not None:
            _check_same(partial, before["fingerprint"], fingerprint)
        here, boot = _boot(), before and before["boot"]
        for line in lines:
            if "boot" in line:
                boot = line["boot"]
                continue
            unit = (line["unit"][0], tuple(line["unit"][1]))
            self.done[unit] = tuple(line["sha256"])
            if not here or boot != here:
                self.doubtful.add(unit)
            else:
                self.doubtful.discard(unit)

    def begin(self) -> None:
        """Writes the journal anew, without what was forgotten; then it grows."""
        self.directory.mkdir(exist_ok=True)
        fresh = self._path.with_name(f"{JOURNAL}.new")
        head = {"fingerprint": self._fingerprint, "boot": _boot()}
        with fresh.open("w") as file:
            file.write(json.dumps(head) + "\n")
            file.writelines(_line(unit, sums) for unit, sums in self.done.items())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

    def forget(self, unit: Unit) -> None:
        """Takes a unit off the finished ones: it is to be made again."""
        del self.done[unit]

    def note(self, unit: Unit, digests: Digests) -> None:
        """Notes a finished unit, from any thread."""
        with self._guard:
            self.done[unit] = digests
            line = _line(unit, digests).encode()
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)


def _line(unit: Unit, digests: Digests) -> str:
    return json.dumps({"unit": unit, "sha256": digests}) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the lines up to the first that is not whole."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        try:
            yield json.loads(line)
        except ValueError:
            return


def _boot() -> str:
    """Returns which start of the machine this is; empty where nobody says."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _check_same(
    partial: Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    changed = [key for key in before.keys() | now.keys() if before.get(key) != now[key]]
    if changed:
        key = min(changed)
        raise CheckpointError(
            f"{partial} is of another conversion: {key} was {before.get(key)}, "
            f"now {now.get(key)}",
            "what it holds would not fit the rest",
            f"use the source and options that it was begun with, or remove {partial} "
            "to start over",
        )


@contextlib.contextmanager
def partial_beside(output: Path, fingerprint: Mapping[str, Any]) -> Iterator[Journal]:
    """Gives the journal of an output's conversion; afterwards the output is there.

    When something fails, what is finished stays beside the output, and the next call
    goes on from there.

    Args:
      output: Not there, or an empty directory, or just `published`.
      fingerprint: What the conversion depends on.

    Raises:
      CheckpointError: Another process works on it, what lies there belongs to another
        conversion, or nothing can be written there.
    """
    partial = partial_of(output)
    try:
        with _locked(partial):
            journal = Journal(partial, fingerprint)
            published = is_published(output)
            try:
                yield journal
                if not published:
                    journal.directory.rename(output)  # onto an empty directory at most
            except BaseException:
                if not journal.done:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            finally:
                journal.close()
            shutil.rmtree(partial)
    except OSError as error:
        raise CheckpointError(
            f"{output} cannot be written",
            str(error),
            "make room and start again, or name an output where you may write",
        ) from None


def discard(output: Path) -> None:
    """Removes what a stopped conversion has left, if there is any.

    Raises:
      CheckpointError: Another process works on it.
    """
    partial = partial_of(output)
    if partial.exists():
        with _locked(partial):
            shutil.rmtree(partial)


def partial_of(output: Path) -> Path:
    """Returns where an output grows."""
    return output.with_name(f"{output.name}.partial")


def is_partial(path: Path) -> bool:
    """Tells whether a path is a growing checkpoint, or the directory around it."""
    return (path / JOURNAL).exists() or (
        path.name == INSIDE and (path.parent / JOURNAL).exists()
    )


def is_published(output: Path) -> bool:
    """Tells whether a conversion ended, but for taking away what lies beside it."""
    partial = partial_of(output)
    moved = (partial / JOURNAL).exists() and not (partial / INSIDE).exists()
    return moved and output.is_dir() and any(output.iterdir())


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Makes the directory and holds its lock.

    Raises:
      CheckpointError: Another process holds it.
    """
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have taken the directory away at the end.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), (partial / LOCK).stat()):
                    yield
                    return
        except BlockingIOError:
            raise CheckpointError(
                f"another process is writing {partial}",
                "two would overwrite each other's work",
                "wait for it, stop it, or name another output",
            ) from None
        finally:
            os.close(lock)
