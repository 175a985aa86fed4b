"""An Orbax directory with a manifest beside it: opening and restoring.

A checkpoint is a tree of zarr arrays that Orbax reads, and `r1jax.json` with the
model's config, a digest of every array, and where it came from.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import QArray, Scheme
from r1jax.typing import PyTree
from r1jax.weights import bucket, leaves, manifest, names
from r1jax.weights.arrays import Stored
from r1jax.weights.files import read_json
from r1jax.weights.reading import Reader

GGUF_TOKENIZER = "gguf_tokenizer.json"
# Block scales of fp8 tensors whose leaves are plain, so that they can be fp8 again.
RELEASED_SCALES = "released_scales.safetensors"


def restore(
    directory: str | Path,
    *,
    dtype: Any = None,
    shardings: PyTree = None,
    mtp: bool = False,
) -> tuple[ModelConfig, PyTree, dict[str, Any]]:
    """Restores a checkpoint straight into place.

    Arrays are read side by side; on the host are at most 1 GB, or one slice of a layer
    that is larger, besides numpy arrays that are returned.

    Args:
      directory: The checkpoint, here or in a bucket (gs://).
      dtype: Of all plain leaves but those that are always float32; None for the stored
        one. What is stored in few bits stays so.
      shardings: A tree like the parameters (more is allowed) of shardings, or of
        `jax.experimental.layout.Format`s to say how arrays lie on a device too. Each
        device's slice is read, and what several devices hold is read once. None for
        numpy arrays.
      mtp: Whether to read the multi-token-prediction layers too.

    Returns:
      The model, its parameters with `QArray`s where they are in few bits, and the
      manifest.

    Raises:
      CheckpointError: The checkpoint is half-made, truncated or damaged.
    """
    opened = OrbaxCheckpoint(directory)
    params = opened.params(dtype, mtp=mtp, shardings=shardings)
    return opened.config, params, opened.manifest


def _restored(
    place: bucket.Place,
    config: ModelConfig,
    about: Mapping[str, Any],
    dtype: Any,
    shardings: PyTree,
    mtp: bool,
) -> PyTree:
    wanted = names.arrays(config, dtype or about["dtype"], manifest.scheme(about))
    tree: dict[str, Any] = {}
    with Reader(place) as reader:
        pending = {}
        for stored in arrays(config, about):
            path = stored.path
            if path[0] == "mtp" and not mtp:
                continue
            sharding = None if shardings is None else leaves.find(shardings, path)
            pending[path] = reader.read(stored, wanted[path].dtype, sharding)
        for path, array in pending.items():
            leaves.insert(tree, path, array())
    return _with_qarrays(tree)


def arrays(config: ModelConfig, about: Mapping[str, Any]) -> list[Stored]:
    """Lists what a checkpoint stores, by its manifest."""
    found = names.arrays(config, about["dtype"], manifest.scheme(about))
    return [
        Stored(path, stacked=about["leaves"]["/".join(path)]["stacked"], **a._asdict())
        for path, a in found.items()
    ]


def _with_qarrays(tree: PyTree) -> PyTree:
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == set(names.PARTS):
        return QArray(**tree)
    return {key: _with_qarrays(node) for key, node in tree.items()}


class OrbaxCheckpoint:
    """An opened r1jax checkpoint; no weight is read yet.

    Attributes:
      kind: "orbax".
      place: The directory, or its address in a bucket.
      path: The directory; of a checkpoint in a bucket, one here with copies of all that
        is no array, which goes with this object.
      config: The model.
      manifest: What `r1jax.json` says.
      generation: What the source's generation_config.json said.
      scheme: What is stored in few bits; None where nothing is.
    """

    kind = "orbax"

    def __init__(self, path: str | Path) -> None:
        """Reads the manifest.

        Raises:
          CheckpointError: As said in `manifest.read`, or a bucket refuses.
        """
        self.place: bucket.Place = path if bucket.is_address(path) else Path(path)
        if bucket.is_address(path):
            self.path = Path(tempfile.mkdtemp(prefix="r1jax-"))
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
            self.config, self.manifest = _copied(path, self.path)
        else:
            self.path = Path(path)
            self.config, self.manifest = manifest.read(path)
        self.generation: Mapping[str, Any] = self.manifest["generation"]
        self.scheme: Scheme | None = manifest.scheme(self.manifest)

    @property
    def tokenizer_directory(self) -> Path | None:
        """Where the tokenizer's files are; None where it came out of a GGUF file."""
        return None if (self.path / GGUF_TOKENIZER).exists() else self.path

    @property
    def tokenizer_fields(self) -> Mapping[str, Any] | None:
        """The tokenizer's metadata, where it came out of a GGUF file."""
        if self.tokenizer_directory:
            return None
        return read_json(self.path / GGUF_TOKENIZER)

    def params(
        self,
        dtype: Any = None,
        *,
        mtp: bool = False,
        shardings: PyTree = None,
        scheme: Scheme | None = None,
    ) -> PyTree:
        """Restores the parameters; see `restore`.

        Raises:
          CheckpointError: A scheme is asked for that is not the stored one; or as said
            in `restore`.
        """
        if scheme not in (None, self.scheme):
            raise CheckpointError(
                f"{self.place} is asked for as {scheme}",
                f"it is stored as {self.scheme or self.manifest['dtype']}, and what is "
                "stored is not rounded again",
                "convert the release with that --dtype, or load what is stored",
            )
        return _restored(self.place, self.config, self.manifest, dtype, shardings, mtp)


def _copied(address: str, home: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Copies what is no array out of a bucket; returns what `manifest.read` does.

    Raises:
      CheckpointError: It is not there, or not as it was written.
    """
    text = bucket.read(address, manifest.MANIFEST)
    if text is None:
        raise CheckpointError(
            f"{address} has no {manifest.MANIFEST}",
            "from buckets only checkpoints of python -m r1jax.convert are read",
            "check the address; convert other models first, or mount the bucket "
            "(docs/deployment.md)",
        )
    config, about = manifest.check(f"{address}/{manifest.MANIFEST}", text)
    bucket.copy(address, about["files"], home)
    return config, about
