"""The checkpoint's own description of itself: `r1jax.json`, and Orbax's `_METADATA`.

The manifest is written last, so a directory with one is whole.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError, ConfigError
from r1jax.quant import Scheme
from r1jax.weights import names
from r1jax.weights.arrays import Stored
from r1jax.weights.files import AGAIN, read_json

MANIFEST, METADATA = "r1jax.json", "_METADATA"
FORMAT = 2


def entry(stored: Stored, digest: str) -> dict[str, Any]:
    """Returns what the manifest says of an array."""
    return {
        "shape": list(stored.shape),
        "dtype": stored.dtype.name,
        "stacked": stored.stacked,
        "sha256": digest,
    }


def write(directory: Path, fields: Mapping[str, Any], files: Iterable[str]) -> None:
    """Writes the manifest, with digests of the files beside the arrays."""
    digests = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in sorted(files)
    }
    manifest = {"format": FORMAT, **fields, "files": digests}
    unfinished = directory / f"{MANIFEST}.new"
    with unfinished.open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(directory / MANIFEST)


def write_metadata(directory: Path, arrays: Iterable[Stored]) -> None:
    """Writes the file by which Orbax knows the tree."""
    tree = {}
    for stored in arrays:
        keys = [{"key": key, "key_type": 2} for key in stored.path]
        value = {"value_type": "jax.Array", "skip_deserialize": False}
        value["write_shape"] = list(stored.shape)
        tree[str(stored.path)] = {"key_metadata": keys, "value_metadata": value}
    metadata = {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    (directory / METADATA).write_text(json.dumps(metadata))


def read(directory: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Reads and checks the manifest.

    Returns:
      The model, and the manifest.

    Raises:
      CheckpointError: It is missing or broken, or does not fit its own model.
    """
    path = Path(directory) / MANIFEST
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing",
            "it is written last: the directory is no r1jax checkpoint, or half of one",
            "convert with python -m r1jax.convert; the same command goes on where a "
            "conversion was stopped",
        )
    return _checked(path, read_json(path))


def check(path: str, text: bytes) -> tuple[ModelConfig, dict[str, Any]]:
    """Checks a manifest that was read elsewhere; returns what `read` does.

    Args:
      path: Where it is, for errors.
      text: What it says.

    Raises:
      CheckpointError: It is broken, or does not fit its own model.
    """
    try:
        manifest = json.loads(text)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is no JSON object", "it is damaged", AGAIN)
    return _checked(path, manifest)


def _checked(
    path: Path | str, manifest: dict[str, Any]
) -> tuple[ModelConfig, dict[str, Any]]:
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format is {manifest.get('format')!r}",
            f"this version of r1jax reads format {FORMAT}",
            "convert again with this version",
        )
    try:
        config = ModelConfig.from_dict(manifest["config"])
        expected = names.arrays(config, manifest["dtype"], scheme(manifest))
        found = {name: entry["shape"] for name, entry in manifest["leaves"].items()}
        sound = all(
            isinstance(entry["sha256"], str) and 0 <= entry["stacked"] <= 2
            for entry in manifest["leaves"].values()
        )
        sound = sound and all(
            isinstance(manifest[key], Mapping) for key in ("generation", "files")
        )
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is broken: {str(error).splitlines()[0]}",
            "it describes the model and every leaf",
            "convert again with python -m r1jax.convert",
        ) from None
    shapes = {"/".join(path): list(array.shape) for path, array in expected.items()}
    if found != shapes or not sound:
        raise CheckpointError(
            f"{path}: its leaves are not those of its model",
            "the manifest was changed, or written by another version",
            "convert again with python -m r1jax.convert",
        )
    return config, manifest


def scheme(manifest: Mapping[str, Any]) -> Scheme | None:
    """Returns what a checkpoint stores in few bits; None where nothing is."""
    parts = manifest["scheme"]
    return None if parts is None else Scheme(**parts)
