"""What is broken, half-made or cannot be written is one error, and never loaded."""

import json

import numpy as np
import pytest

from r1jax.errors import CheckpointError
from r1jax.weights import arrays, convert, restore

# Each damages a checkpoint; it must be refused.


def remove(name):
    return lambda path: (path / name).unlink()


def cut(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-3])


def flip(name):
    def damage(path):
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)

    return damage


def in_manifest(**fields):
    def damage(path):
        manifest = json.loads((path / "r1jax.json").read_text())
        (path / "r1jax.json").write_text(json.dumps(manifest | fields))

    return damage


CHUNK = "dense_layers.mlp.down.kernel/c/0/0/0"
DAMAGES = {
    "no manifest": remove("r1jax.json"),
    "half a manifest": cut("r1jax.json"),
    "another format": in_manifest(format=1),
    "no config": in_manifest(config={}),
    "a config of the wrong kind": in_manifest(config=7),
    "no leaves": in_manifest(leaves={}),
    "leaves of the wrong kind": in_manifest(leaves=[1]),
    "an unknown scheme": in_manifest(scheme={"attention": "int3"}),
    "an unknown dtype": in_manifest(dtype="int3"),
    "a chunk missing": remove(CHUNK),
    "a chunk cut short": cut(CHUNK),
    "a chunk with a flipped bit": flip(CHUNK),
    "an array's description missing": remove("embed.embedding/zarr.json"),
    "an array's description cut short": cut("embed.embedding/zarr.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_error(damage, converted):
    _, output = converted("qwen2")
    DAMAGES[damage](output)
    with pytest.raises(CheckpointError) as error:
        restore(output)
    text = str(error.value)
    assert len(text.splitlines()) == 3
    assert str(output) in text


def test_a_broken_weight_gives_no_checkpoint(hf_copy, tmp_path, edit):
    source = hf_copy("qwen2_tied")
    with edit(source / "model.safetensors") as raw:
        shape = raw.entries["model.norm.weight"]["shape"]
        nan = np.full(shape, np.nan, "<f4").tobytes()
        raw.put("model.norm.weight", "F32", shape, nan)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        convert(source, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_an_array_that_cannot_be_made_is_one_error(hf_copy, tmp_path, monkeypatch):
    make = arrays.ts.open

    def fail(spec, **more):
        if "final_norm" in spec["kvstore"]:
            raise ValueError("RESOURCE_EXHAUSTED: no space left on device")
        return make(spec, **more)

    monkeypatch.setattr(arrays.ts, "open", fail)
    with pytest.raises(CheckpointError, match="final_norm/scale") as error:
        convert(hf_copy("qwen2"), tmp_path / "output")
    assert "no space left" in str(error.value)
