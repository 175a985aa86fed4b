"""Changes to copies of golden Hugging Face directories, and what is then said."""

import json
from pathlib import Path

import pytest

from r1jax.errors import CheckpointError
from r1jax.weights.hf import load_params

FP8 = "model.layers.1.mlp.experts.0.down_proj.weight"
INDEX = "model.safetensors.index.json"


def error_of(path: Path) -> str:
    """Opens and reads a checkpoint that must fail; returns its three lines."""
    with pytest.raises(CheckpointError) as error:
        load_params(path, "bfloat16")
    text = str(error.value)
    assert len(text.splitlines()) == 3
    return text


def set_json(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def raw_shards(path: Path) -> dict[str, Path]:
    """Which file holds each tensor."""
    index = json.loads((path / INDEX).read_text())
    return {name: path / shard for name, shard in index["weight_map"].items()}
