"""Reads a whole checkpoint again and compares it with its manifest."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r1jax.weights import manifest, store
from r1jax.weights.arrays import Stored, digest_of, digest_of_units, reason
from r1jax.weights.filling import THREADS
from r1jax.weights.manifest import MANIFEST
from r1jax.weights.room import Room

_ROOM = 2**30  # bytes in memory at once, or one unit that is larger


def verify(directory: str | Path) -> tuple[int, list[str]]:
    """Compares every file of a checkpoint with what the manifest says of it.

    Returns:
      How many leaves were read, and a line for each thing that is wrong; none where the
      checkpoint is whole.

    Raises:
      CheckpointError: There is no manifest, or a broken one.
    """
    directory = Path(directory)
    config, about = manifest.read(directory)
    arrays = store.arrays(config, about)
    expected = {MANIFEST, *about["files"]}
    expected |= {name for stored in arrays for name in stored.files()}
    paths = (path for path in directory.rglob("*") if not path.is_dir())
    found = {path.relative_to(directory).as_posix() for path in paths}
    wrong = [
        f"{name}: is not part of the checkpoint" for name in sorted(found - expected)
    ]
    wrong += _beside(directory, about["files"])
    total = sum(stored.nbytes for stored in arrays)
    progress = tqdm(
        total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
    )
    with progress, ThreadPoolExecutor(THREADS) as pool:
        digests = _Digests(directory, found, pool, progress)
        pending = [(stored, digests.start(stored)) for stored in arrays]
        for stored, finish in pending:
            entry = about["leaves"][stored.name]
            wrong += [f"leaf {stored.name}: {what}" for what in finish(entry["sha256"])]
    return len(arrays), wrong


def _beside(directory: Path, files: Mapping[str, str]) -> Iterator[str]:
    """Compares the files that are no arrays."""
    for name, digest in files.items():
        try:
            content = (directory / name).read_bytes()
        except OSError as error:
            yield f"{name}: {error.strerror}"
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            yield f"{name}: differs from what was written"


class _Digests:
    """Takes digests of arrays, all cores at once."""

    def __init__(
        self, directory: Path, found: set[str], pool: ThreadPoolExecutor, progress: Any
    ) -> None:
        self._directory, self._found = directory, found
        self._pool, self._progress, self._room = pool, progress, Room(_ROOM)

    def start(self, stored: Stored) -> Any:
        """Begins with an array; the result compares it, and says what is wrong."""
        missing = [name for name in stored.files() if name not in self._found]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return lambda _: [f"{missing[0]} is missing{more}"]
        try:
            array = stored.open(self._directory)
        except ValueError as error:
            text = reason(error)
            return lambda _: [text]
        units = [
            self._pool.submit(self._unit, stored, array[i]) for i in stored.units()
        ]

        def compare(digest: str) -> list[str]:
            try:
                same = digest_of_units(unit.result() for unit in units) == digest
            except ValueError as error:
                return [reason(error)]
            return [] if same else ["its digest is not the one in the manifest"]

        return compare

    def _unit(self, stored: Stored, unit: Any) -> str:
        with self._room.held(stored.unit_bytes):
            digest = digest_of(unit.read().result())
        self._progress.update(stored.unit_bytes)
        return digest
