"""Checkpoints in a bucket of Google Cloud Storage (gs://), read where they lie.

tensorstore asks the bucket: for arrays slice by slice, as on a disk, and for the small
files beside them, which are copied to this machine for as long as they are needed. It
finds its credentials as Google's own programs do.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, TypeGuard

import tensorstore as ts

from r1jax.errors import CheckpointError

SCHEME = "gs://"
Place = str | Path  # a directory, or the address of one in a bucket
# About a minute; tensorstore's own 32 tries take a quarter of an hour.
_RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "32s"}
_FORBIDDEN = ("PERMISSION_DENIED", "UNAUTHENTICATED")


def is_address(place: object) -> TypeGuard[str]:
    """Tells an address in a bucket from a path."""
    return isinstance(place, str) and place.startswith(SCHEME)


def context(**more: Any) -> ts.Context:
    """Returns tensorstore's settings, with bounded patience."""
    return ts.Context({"gcs_request_retries": _RETRIES, **more})


def folder_of(place: Place, name: str = "") -> str:
    """Returns what tensorstore calls a directory, or one inside it."""
    start = place if is_address(place) else f"file://{Path(place).absolute()}"
    return "/".join(filter(None, (start.rstrip("/"), name))) + "/"


def names(place: Place) -> set[str]:
    """Lists all files under a directory or an address.

    Raises:
      CheckpointError: The bucket does not answer, or refuses.
    """
    if is_address(place):
        return {key.decode() for key in _asked(place, _opened(place).list)}
    paths = (path for path in Path(place).rglob("*") if not path.is_dir())
    return {path.relative_to(place).as_posix() for path in paths}


def read(address: str, name: str) -> bytes | None:
    """Returns a file's contents, or None where there is none.

    Raises:
      CheckpointError: The bucket does not answer, or refuses.
    """
    store = _opened(address)
    found = _asked(f"{address.rstrip('/')}/{name}", lambda: store.read(name))
    return None if found.state == "missing" else bytes(found.value)


def copy(address: str, digests: dict[str, str], directory: Path) -> None:
    """Copies files into a directory.

    Args:
      address: Where they are.
      digests: The SHA-256 of each name.
      directory: Where they go.

    Raises:
      CheckpointError: One is missing or is not what was written.
    """
    for name, digest in digests.items():
        where = f"{address.rstrip('/')}/{name}"
        if Path(name).name != name:
            raise CheckpointError(
                f"{where} is named by the manifest",
                "a checkpoint's files lie beside its manifest, not elsewhere",
                "take a checkpoint that python -m r1jax.convert wrote",
            )
        content = read(address, name)
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            state = "is missing" if content is None else "differs from what was written"
            raise CheckpointError(
                f"{where} {state}",
                "the manifest lists it with its digest",
                "copy the checkpoint into the bucket again, all of it",
            )
        (directory / name).write_bytes(content)


def _opened(address: str) -> Any:
    return _asked(
        address, lambda: ts.KvStore.open(folder_of(address), context=context())
    )


def _asked(where: str, question: Any) -> Any:
    """Waits for an answer, and tells the user why there is none."""
    try:
        return question().result()
    except (ValueError, OSError) as error:
        fix = "check the name and the network: can `gcloud storage ls` list it?"
        if str(error).startswith(_FORBIDDEN):
            fix = (
                "let the service account of this machine read the bucket, or log in "
                "with `gcloud auth application-default login`"
            )
        raise CheckpointError(f"{where} cannot be read", reason(error), fix) from None


def reason(error: Exception) -> str:
    """Returns tensorstore's words, without its codes and where in its source."""
    first = (str(error) or type(error).__name__).splitlines()[0].split(" [")[0]
    return re.sub(r"^[A-Z_]+: ", "", first)
