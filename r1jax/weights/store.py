"""Checkpoints on disk: an Orbax directory, the manifest, and the tokenizer beside them.

The directory is what Orbax itself writes without OCDBT: a zarr (version 3) array for
each leaf, in a directory named after its path with dots, and `_METADATA`; so
`orbax.checkpoint.StandardCheckpointer().restore(directory)` reads it, with shardings
too. The arrays are written and read here through tensorstore, as Orbax does: its save
takes whole leaves, and R1's largest has 872 GB; and its restore of a damaged array
leaves a trail of exceptions of other threads behind the one that tells what is wrong.

Chunks never span two layers or experts, and are cut further along the axes that meshes
cut, so that a device reads little more than its own slice. Each ends in a CRC-32C that
every read checks.

`r1jax.json` is the manifest. It is written last, into a directory that is renamed to
its final name afterwards: a checkpoint with a manifest is whole.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from r1jax import quant
from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError, ConfigError
from r1jax.quant import Scheme
from r1jax.typing import PyTree
from r1jax.weights import leaves, names
from r1jax.weights.files import read_json
from r1jax.weights.leaves import Leaf

MANIFEST = "r1jax.json"
GGUF_TOKENIZER = "gguf_tokenizer.json"
FORMAT = 1
_CHUNK = 2**26  # bytes above which a chunk is cut
# Logical axes that some mesh cuts, so that a device need not read its neighbours' part.
_CUT = ("vocab", "heads", "kv_heads", "mlp", "expert_mlp")
# Waiting for the disk after each chunk takes three times as long; should the machine
# fail before the data arrives there, the chunks' checksums tell.
_UNSYNCED = ts.Context({"file_io_sync": False})


class LeafWriter:
    """Writes one leaf, unit by unit in order, and takes its digest on the way."""

    def __init__(self, directory: Path, leaf: Leaf, axes: tuple[str, ...]) -> None:
        """Makes the leaf's array; `axes` are its logical axes.

        Raises:
          CheckpointError: The disk is full or fails.
        """
        self._digest = hashlib.sha256()
        self._leaf = leaf
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        grid = {"chunk_shape": _chunk_shape(leaf, axes)}
        with self._told():
            self._array = ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": f"file://{directory / '.'.join(leaf.path)}/",
                    "metadata": {
                        "shape": list(leaf.shape),
                        "data_type": leaf.dtype.name,
                        "chunk_grid": {"name": "regular", "configuration": grid},
                        "codecs": codecs,
                    },
                    "create": True,
                    "store_data_equal_to_fill_value": True,
                },
                context=_UNSYNCED,
            ).result()

    def write(self, index: tuple[int, ...], unit: np.ndarray) -> None:
        """Writes a unit; the array must not change until this returns.

        Raises:
          CheckpointError: The disk is full or fails.
        """
        with self._told():
            written = self._array[index].write(unit)
            self._digest.update(unit.view(np.uint8).reshape(-1).data)
            written.result()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tells the user of a failing disk."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"leaf {'/'.join(self._leaf.path)} cannot be written",
                str(error),
                "make room on the disk, or choose another output directory",
            ) from None

    def entry(self) -> dict[str, Any]:
        """Returns what the manifest says of the leaf."""
        leaf = self._leaf
        digest = self._digest.hexdigest()
        shape = list(leaf.shape)
        return {"shape": shape, "dtype": leaf.dtype.name, "sha256": digest}


def _chunk_shape(leaf: Leaf, axes: tuple[str, ...]) -> list[int]:
    """Cuts one unit along the axes that meshes cut, halving, until chunks are small."""
    depth = leaf.stacked_axes
    shape = [1] * depth + list(leaf.shape[depth:])
    for axis in [i for i, name in enumerate(axes) if name in _CUT and i >= depth]:
        while math.prod(shape) * leaf.dtype.itemsize > _CHUNK and shape[axis] % 2 == 0:
            shape[axis] //= 2
    return shape


def write_metadata(directory: Path, planned: list[Leaf]) -> None:
    """Writes the file by which Orbax knows the tree."""
    tree = {}
    for leaf in planned:
        keys = [{"key": key, "key_type": 2} for key in leaf.path]
        value = {"value_type": "jax.Array", "skip_deserialize": False}
        value["write_shape"] = list(leaf.shape)
        tree[str(leaf.path)] = {"key_metadata": keys, "value_metadata": value}
    metadata = {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    (directory / "_METADATA").write_text(json.dumps(metadata))


def read_manifest(directory: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
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
            "convert again with tools/convert_weights.py",
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format is {manifest.get('format')!r}",
            f"this version of r1jax reads format {FORMAT}",
            "convert again with this version",
        )
    try:
        config = ModelConfig.from_dict(manifest["config"])
        tree = names.leaves(config, manifest["dtype"])
        shapes = {name: entry["shape"] for name, entry in manifest["leaves"].items()}
        generation = manifest["generation"]
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is broken: {str(error).splitlines()[0]}",
            "it describes the model and every leaf",
            "convert again with tools/convert_weights.py",
        ) from None
    expected = {"/".join(path): list(leaf.shape) for path, leaf in tree.items()}
    if shapes != expected or not isinstance(generation, Mapping):
        raise CheckpointError(
            f"{path}: its leaves are not those of its model",
            "the manifest was changed, or written by another version",
            "convert again with tools/convert_weights.py",
        )
    return config, manifest


def restore(
    directory: str | Path,
    *,
    dtype: Any = None,
    shardings: PyTree = None,
    mtp: bool = False,
    scheme: Scheme | None = None,
) -> tuple[ModelConfig, PyTree, dict[str, Any]]:
    """Restores a checkpoint straight into place.

    Args:
      directory: The checkpoint.
      dtype: Of all leaves but those that are always float32; None for the stored one.
      shardings: A tree of shardings like the parameters (more is allowed); each device
        reads its own slice. None for numpy arrays.
      mtp: Whether to read the multi-token-prediction layers too.
      scheme: What is kept in few bits, rounded layer by layer from what is stored.

    Returns:
      The model, its parameters, and the manifest.

    Raises:
      CheckpointError: The checkpoint is half-made, truncated or damaged.
    """
    config, manifest = read_manifest(directory)
    tree: dict[str, Any] = {}
    for path, leaf in names.leaves(config, dtype or manifest["dtype"]).items():
        if path[0] == "mtp" and not mtp:
            continue
        sharding = None if shardings is None else leaves.find(shardings, path)
        form = scheme.form(path) if scheme else None
        try:
            if form:
                array = _read_few(Path(directory), path, leaf, form, sharding)
            else:
                array = _read(Path(directory), path, leaf, sharding)
        except ValueError as error:
            raise CheckpointError(
                f"{directory}: leaf {'/'.join(path)} cannot be read",
                str(error).splitlines()[0],
                "copy the checkpoint again, or convert again",
            ) from None
        leaves.insert(tree, path, array)
    return config, tree, manifest


def _read(
    directory: Path, path: names.Path, leaf: jax.ShapeDtypeStruct, sharding: Any
) -> Any:
    """Reads one leaf, whole or each device its own slice.

    Raises:
      ValueError: A file is missing, cut short or changed.
    """
    array = _opened(directory, path, leaf)

    def finished(read: Any) -> np.ndarray:
        values = np.asarray(read.result())
        if values.dtype == leaf.dtype:
            return values
        where = f"{directory}: leaf {'/'.join(path)}"
        return leaves.rounded(
            values, leaf.dtype, lambda a, b, c: CheckpointError(f"{where}: {a}", b, c)
        )

    if sharding is None:
        return finished(array.read())
    places = sharding.addressable_devices_indices_map(leaf.shape)
    reads = {str(place): array[place].read() for place in places.values()}
    return jax.make_array_from_callback(
        leaf.shape, sharding, lambda place: finished(reads[str(place)])
    )


def _read_few(
    directory: Path,
    path: names.Path,
    leaf: jax.ShapeDtypeStruct,
    form: str,
    sharding: Any,
) -> Any:
    """Reads a plain leaf into few bits, a layer at a time.

    Raises:
      ValueError: A file is missing, cut short or changed.
    """
    stored = _opened(directory, path, leaf)
    layers = [
        quant.quantise_leaf(path, np.asarray(stored[i].read().result()), form)
        for i in range(leaf.shape[0])
    ]
    array = jax.tree.map(lambda *parts: np.stack(parts), *layers)
    return array if sharding is None else jax.device_put(array, sharding)


def _opened(directory: Path, path: names.Path, leaf: jax.ShapeDtypeStruct) -> Any:
    return ts.open(
        {
            "driver": "zarr3",
            "kvstore": f"file://{directory.absolute() / '.'.join(path)}/",
            "fill_missing_data_reads": False,
        },
        open=True,
        shape=leaf.shape,
    ).result()


class OrbaxCheckpoint:
    """An opened r1jax checkpoint; no weight is read yet.

    Attributes:
      kind: "orbax".
      path: The directory.
      config: The model.
      manifest: What `r1jax.json` says.
      generation: What the source's generation_config.json said.
    """

    kind = "orbax"

    def __init__(self, path: str | Path) -> None:
        """Reads the manifest.

        Raises:
          CheckpointError: As said in `read_manifest`.
        """
        self.path = Path(path)
        self.config, self.manifest = read_manifest(path)
        self.generation: Mapping[str, Any] = self.manifest["generation"]

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
        """Restores the parameters; see `restore`."""
        return restore(
            self.path, dtype=dtype, shardings=shardings, mtp=mtp, scheme=scheme
        )[1]
