"""Reads a whole checkpoint again and compares it with its manifest."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r1jax.weights import bucket, store
from r1jax.weights.arrays import Stored, digest_of, digest_of_units
from r1jax.weights.filling import THREADS
from r1jax.weights.manifest import MANIFEST
from r1jax.weights.room import Room

_ROOM = 2**30  # bytes in memory at once, or one unit that is larger


def verify(directory: str | Path) -> tuple[int, list[str]]:
    """Compares every file of a checkpoint with what the manifest says of it.

    Args:
      directory: The checkpoint, here or in a bucket (gs://).

    Returns:
      How many leaves were read, and a line for each thing that is wrong; none where the
      checkpoint is whole.

    Raises:
      CheckpointError: There is no manifest, or a broken one.
    """
    checkpoint = store.OrbaxCheckpoint(directory)
    place, about = checkpoint.place, checkpoint.manifest
    arrays = store.arrays(checkpoint.config, about)
    expected = {MANIFEST, *about["files"]}
    expected |= {name for stored in arrays for name in stored.files()}
    found = bucket.names(place)
    wrong = [
        f"{name}: is not part of the checkpoint" for name in sorted(found - expected)
    ]
    wrong += _beside(checkpoint.path, about["files"])
    total = sum(stored.nbytes for stored in arrays)
    progress = tqdm(
        total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
    )
    with progress, ThreadPoolExecutor(THREADS) as pool:
        digests = _Digests(place, found, pool, progress)
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
        self,
        place: bucket.Place,
        found: set[str],
        pool: ThreadPoolExecutor,
        progress: Any,
    ) -> None:
        self._place, self._found = place, found
        self._pool, self._progress, self._room = pool, progress, Room(_ROOM)
        self._context = bucket.context()

    def start(self, stored: Stored) -> Any:
        """Begins with an array; the result compares it, and says what is wrong."""
        missing = [name for name in stored.files() if name not in self._found]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return lambda _: [f"{missing[0]} is missing{more}"]
        try:
            array = stored.open(self._place, self._context)
        except ValueError as error:
            text = bucket.reason(error)
            return lambda _: [text]
        units = [
            self._pool.submit(self._unit, stored, array[i]) for i in stored.units()
        ]

        def compare(digest: str) -> list[str]:
            try:
                same = digest_of_units(unit.result() for unit in units) == digest
            except ValueError as error:
                return [bucket.reason(error)]
            return [] if same else ["its digest is not the one in the manifest"]

        return compare

    def _unit(self, stored: Stored, unit: Any) -> str:
        with self._room.held(stored.unit_bytes):
            digest = digest_of(unit.read().result())
        self._progress.update(stored.unit_bytes)
        return digest
