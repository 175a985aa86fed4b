"""Hugging Face directories: the right weights."""

import ml_dtypes
import numpy as np
import pytest

from golden_files import golden
from r1jax.weights import open_source
from r1jax.weights.hf import HfCheckpoint, load_params
from weights.hf_copies import FP8, error_of, raw_shards, set_json


def test_matrices_are_turned_and_parted(hf_copy, edit, flat):
    path = hf_copy("deepseek_no_qlora")  # stored in float32
    config, params = load_params(path, "float32")
    params = flat(params)
    with edit(path / "model.safetensors") as raw:
        stored = {
            name: np.frombuffer(raw.bytes_of(name), "<f4").reshape(entry["shape"])
            for name, entry in raw.entries.items()
            if name != "__metadata__"
        }
    layer, a = "model.layers.1.", config.attention
    kv = stored[layer + "self_attn.kv_b_proj.weight"]
    kv = kv.reshape(a.heads, a.nope_dim + a.value_dim, a.kv_rank)
    first = "moe_layers/" if config.dense_layers == 1 else "dense_layers/"
    expected = {
        "attention/k_up/kernel": kv[:, : a.nope_dim].transpose(2, 0, 1),
        "attention/v_up/kernel": kv[:, a.nope_dim :].transpose(2, 0, 1),
        "attention/o/kernel": stored[layer + "self_attn.o_proj.weight"].T.reshape(
            a.heads, a.value_dim, -1
        ),
        "moe/router/kernel": stored[layer + "mlp.gate.weight"].T,
        "moe/experts/gate_up": np.stack(
            [
                np.stack(
                    [
                        stored[f"{layer}mlp.experts.{e}.{part}_proj.weight"].T
                        for part in ("gate", "up")
                    ],
                    axis=1,
                )
                for e in range(config.moe.experts)
            ]
        ),
    }
    for leaf, value in expected.items():
        np.testing.assert_array_equal(params[first + leaf][0], value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_blocks_are_scaled_in_float32_and_rounded_once(hf_copy, edit, flat, dtype):
    path = hf_copy("deepseek_fp8_mtp")
    shards = raw_shards(path)
    with edit(shards[FP8]) as raw:
        shape = raw.entries[FP8]["shape"]
        values = np.frombuffer(raw.bytes_of(FP8), ml_dtypes.float8_e4m3fn)
    with edit(shards[FP8 + "_scale_inv"]) as raw:
        scales = np.frombuffer(raw.bytes_of(FP8 + "_scale_inv"), "<f4")
    rows, columns = (np.arange(size) // 128 for size in shape)
    scales = scales.reshape(rows[-1] + 1, columns[-1] + 1)
    wide = values.reshape(shape).astype(np.float32) * scales[rows[:, None], columns]
    leaf = flat(load_params(path, dtype)[1])["moe_layers/moe/experts/down"][0, 0]
    np.testing.assert_array_equal(leaf, wide.T.astype(dtype))


def test_bands_that_cut_blocks_give_the_same_weights(hf_copy, monkeypatch, same):
    path = hf_copy("deepseek_fp8_mtp")
    whole = load_params(path, "float32", mtp=True)[1]
    monkeypatch.setattr("r1jax.weights.filling._BAND", 1)
    monkeypatch.setattr("r1jax.weights.filling._FEWEST_ROWS", 7)
    monkeypatch.setattr("r1jax.weights.leaves._WHOLE", 0)
    same(load_params(path, "float32", mtp=True)[1], whole)


def test_the_routers_bias_stays_float32(hf_copy, flat):
    params = flat(load_params(hf_copy("deepseek_yarn"), "bfloat16")[1])
    wide = {path for path, leaf in params.items() if leaf.dtype == np.float32}
    assert wide == {"moe_layers/moe/router/bias"}


def test_mtp_layers_are_read_only_when_asked_for(hf_copy):
    source = HfCheckpoint(hf_copy("deepseek_fp8_mtp"))
    assert source.config.mtp_layers == 1
    assert "mtp" not in source.params("bfloat16")
    assert "block" in source.params("bfloat16", mtp=True)["mtp"]


def test_a_checkpoint_saved_without_its_mtp_layers_has_none(hf_copy):
    path = hf_copy("deepseek_yarn")
    set_json(path / "config.json", num_nextn_predict_layers=1)
    assert HfCheckpoint(path).config.mtp_layers == 0


def test_generation_defaults_and_tokenizer_are_offered(hf_copy):
    path = hf_copy("qwen2")
    source = open_source(path)
    assert source.generation["temperature"] == 0.6
    assert (source.tokenizer_directory, source.tokenizer_fields) == (path, None)
    assert open_source(golden("qwen2").directory).tokenizer_directory is None


def test_weights_lie_where_a_cpu_device_takes_them_over(hf_copy, flat):
    params = flat(load_params(hf_copy("qwen2"), "float32")[1])
    assert all(leaf.ctypes.data % 64 == 0 for leaf in params.values())


def test_computed_tables_are_left_out(hf_copy, edit):
    path = hf_copy("llama")
    with edit(path / "model.safetensors") as raw:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        raw.put(name, "F32", [4], b"\0" * 16)
    load_params(path, "float32")


def test_a_tied_head_may_be_there_if_it_is_the_embedding(hf_copy, edit):
    path = hf_copy("qwen2_tied")
    with edit(path / "model.safetensors") as raw:
        embedding = raw.bytes_of("model.embed_tokens.weight")
        shape = raw.entries["model.embed_tokens.weight"]["shape"]
        raw.put("lm_head.weight", "F32", shape, embedding)
    assert "lm_head" not in load_params(path, "float32")[1]
    with edit(path / "model.safetensors") as raw:
        raw.put("lm_head.weight", "F32", shape, embedding[4:] + embedding[:4])
    text = error_of(path)
    assert "lm_head.weight: differs" in text
    assert "tie_word_embeddings" in text


def test_the_hubs_cache_of_links_is_followed(hf_copy, tmp_path, same):
    path = hf_copy("qwen2")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in path.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    same(load_params(snapshot, "float32")[1], open_source(snapshot).params("float32"))
