"""Small checkpoints to break: copies of the golden ones, their files taken apart."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from golden_files import golden
from r1jax import parameters
from r1jax.weights import arrays, convert, leaves


@dataclass
class Raw:
    """A safetensors file in memory: its header's entries and its bytes."""

    entries: dict[str, Any]
    data: bytes

    @classmethod
    def read(cls, path: Path) -> "Raw":
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return cls(json.loads(content[8:end]), content[end:])

    def write(self, path: Path) -> None:
        header = json.dumps(self.entries).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + self.data)

    def bytes_of(self, name: str) -> bytes:
        start, stop = self.entries[name]["data_offsets"]
        return self.data[start:stop]

    def put(self, name: str, dtype: str, shape: list[int], data: bytes) -> None:
        """Adds a tensor, or gives one new contents."""
        offsets = [len(self.data), len(self.data) + len(data)]
        self.entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        self.data += data


@pytest.fixture
def hf_copy(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a golden checkpoint, with a tokenizer's files beside it."""

    def copy(name: str) -> Path:
        path = tmp_path / name
        shutil.copytree(golden(name).directory, path)
        (path / "golden.npz").unlink()
        (path / "tokenizer.json").write_text('{"any": "tokenizer"}')
        return path

    return copy


@pytest.fixture
def edit() -> Callable[[Path], Any]:
    """Opens a safetensors file to change it: `with edit(path) as raw: ...`."""

    @contextlib.contextmanager
    def editing(path: Path) -> Any:
        raw = Raw.read(path)
        yield raw
        raw.write(path)

    return editing


def _flat(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = (
        "/".join(getattr(key, "key", None) or key.name for key in path)
        for path, _ in leaves
    )
    return dict(zip(names, (np.asarray(leaf) for _, leaf in leaves), strict=True))


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Compares two trees: the same paths, dtypes and bits."""

    def compare(left: Any, right: Any) -> None:
        left, right = _flat(left), _flat(right)
        assert left.keys() == right.keys()
        for path, leaf in left.items():
            assert leaf.dtype == right[path].dtype, path
            assert leaf.shape == right[path].shape, path
            assert leaf.tobytes() == right[path].tobytes(), path

    return compare


@pytest.fixture
def converted(hf_copy, tmp_path):
    """Converts a golden checkpoint; gives the source and the checkpoint."""

    def make(name: str, dtype: str = "float32", **options) -> tuple[Path, Path]:
        source, output = hf_copy(name), tmp_path / "output"
        convert(source, output, dtype=dtype, **options)
        return source, output

    return make


@pytest.fixture
def small_units(monkeypatch):
    """Cuts even tiny leaves into units and chunks, as large ones are."""
    monkeypatch.setattr(leaves, "_WHOLE", 0)
    monkeypatch.setattr(arrays, "_CHUNK", 300)


@pytest.fixture
def flat() -> Callable[[Any], dict[str, np.ndarray]]:
    """Lists a tree's leaves by path."""
    return _flat


@pytest.fixture
def shardings_of():
    """Cuts experts, heads and the vocabulary of a model over four devices."""

    def make(config):
        mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])

        def sharding(axes):
            cut = ("x" if a in ("experts", "heads", "vocab") else None for a in axes)
            return jax.NamedSharding(mesh, jax.P(*cut))

        axes = parameters.logical_axes(config)
        return jax.tree.map(sharding, axes, is_leaf=lambda n: isinstance(n, tuple))

    return make
