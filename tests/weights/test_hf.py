"""Hugging Face directories: the right weights, or one error that names the culprit."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from golden_files import golden
from r1jax.errors import CheckpointError
from r1jax.weights import open_source
from r1jax.weights.hf import HfCheckpoint, load_params

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


# Each breaks a copy of a golden checkpoint in one way; the text must name the words.


def cut_shard(path, edit):
    shard = raw_shards(path)[FP8]
    shard.write_bytes(shard.read_bytes()[:-100])
    return [shard.name, "tensor", "ends at byte"]


def lose_shard(path, edit):
    shard = raw_shards(path)[FP8]
    shard.unlink()
    return [shard.name, "No such file"]


def lose_tensor(path, edit):
    index = path / INDEX
    names = json.loads(index.read_text())["weight_map"]
    shard = path / names.pop(FP8)
    set_json(index, weight_map=names)
    with edit(shard) as raw:
        del raw.entries[FP8]
    return [str(path), FP8, "1 are missing"]


def lose_tensor_in_shard(path, edit):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        del raw.entries[FP8]
    return [shard.name, FP8, "is not in this file"]


def unlisted_tensor(path, edit):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        raw.put("model.extra.weight", "F32", [1], b"\0" * 4)
    return [shard.name, "model.extra.weight", "is not in the index"]


def extra_tensor(path, edit):
    index = path / INDEX
    names = json.loads(index.read_text())["weight_map"]
    set_json(index, weight_map=names | {"model.extra.weight": names[FP8]})
    return [*unlisted_tensor(path, edit)[:2], "has no place"]


def put_fp8(path, edit, dtype, shape, data):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        raw.put(FP8, dtype, shape, data)
    return [shard.name, FP8]


def wrong_shape(path, edit):
    return [*put_fp8(path, edit, "BF16", [3, 5], b"\0" * 30), "[3, 5]", "expected"]


def wrong_dtype(path, edit):
    with edit(raw_shards(path)[FP8]) as raw:
        shape = raw.entries[FP8]["shape"]
    data = b"\0" * 8 * (shape[0] * shape[1])
    return [*put_fp8(path, edit, "I64", shape, data), "dtype I64"]


def fp8_norm(path, edit):
    name = "model.norm.weight"
    shard = raw_shards(path)[name]
    with edit(shard) as raw:
        shape = raw.entries[name]["shape"]
        raw.put(name, "F8_E4M3", shape, b"\0" * shape[0])
    return [shard.name, name, "dtype F8_E4M3"]


def overlap(path, edit):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        stop = raw.entries[FP8]["data_offsets"][1]
        others = [e for n, e in raw.entries.items() if n not in (FP8, "__metadata__")]
        other = next(e for e in others if e["data_offsets"][0] == stop)
        other["data_offsets"] = [n - 1 for n in other["data_offsets"]]
    return [shard.name, "tensor", "inside the tensor before it"]


def backwards(path, edit):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        raw.entries[FP8]["data_offsets"].reverse()
    return [shard.name, "broken header"]


def contradiction(path, edit):
    shard = raw_shards(path)[FP8]
    with edit(shard) as raw:
        raw.entries[FP8]["shape"][0] += 1
    return [shard.name, FP8, "needs"]


def header_of(content):
    def corrupt(path, edit):
        shard = raw_shards(path)[FP8]
        shard.write_bytes(content)
        return [shard.name]

    return corrupt


def scale_value(value):
    def corrupt(path, edit):
        name = FP8 + "_scale_inv"
        shard = raw_shards(path)[name]
        with edit(shard) as raw:
            shape = raw.entries[name]["shape"]
            data = np.full(shape, value, "<f4").tobytes()
            raw.put(name, "F32", shape, data)
        return [shard.name, name, "block (0, 0)"]

    return corrupt


def scale_shape(path, edit):
    name = FP8 + "_scale_inv"
    shard = raw_shards(path)[name]
    with edit(shard) as raw:
        raw.put(name, "F32", [7, 1], np.ones(7, "<f4").tobytes())
    return [shard.name, name, "[7, 1]", "expected F32"]


def scale_gone(path, edit):
    name = FP8 + "_scale_inv"
    index = path / INDEX
    shard = raw_shards(path)[name]
    names = json.loads(index.read_text())["weight_map"]
    del names[name]
    set_json(index, weight_map=names)
    with edit(shard) as raw:
        del raw.entries[name]
    return [raw_shards(path)[FP8].name, FP8, "without"]


def scale_of_nothing(path, edit):
    with edit(raw_shards(path)[FP8]) as raw:
        shape = raw.entries[FP8]["shape"]
    data = b"\0" * 2 * (shape[0] * shape[1])
    put_fp8(path, edit, "BF16", shape, data)
    return [FP8 + "_scale_inv", "its weight is not fp8"]


def nan_weight(path, edit):
    with edit(raw_shards(path)[FP8]) as raw:
        shape = raw.entries[FP8]["shape"]
        data = bytearray(raw.bytes_of(FP8))
    data[-1] = 0x7F
    return [*put_fp8(path, edit, "F8_E4M3", shape, bytes(data)), "no number"]


def index_to(name):
    def corrupt(path, edit):
        index = path / INDEX
        names = json.loads(index.read_text())["weight_map"]
        outside = path.parent / "x.safetensors"
        outside.write_bytes(raw_shards(path)[FP8].read_bytes())
        target = name.format(outside=outside)
        set_json(index, weight_map=names | {FP8: target})
        if target == "link.safetensors":
            (path / target).symlink_to(outside)
        return [index.name, repr(target), str(outside)]

    return corrupt


def text_of(file, content, *words):
    def corrupt(path, edit):
        (path / file).write_text(content)
        return [file, *words]

    return corrupt


def no_config(path, edit):
    (path / "config.json").unlink()
    return ["config.json", "No such file"]


def no_index(path, edit):
    (path / INDEX).unlink()
    return [str(path), "neither model.safetensors nor"]


def other_quantization(path, edit):
    set_json(path / "config.json", quantization_config={"quant_method": "awq"})
    return ["config.json", "awq"]


def other_blocks(path, edit):
    fields = {"quant_method": "fp8", "weight_block_size": [64, 64]}
    set_json(path / "config.json", quantization_config=fields)
    return ["config.json", "[64, 64]"]


CORRUPTIONS = {
    "a shard cut short": cut_shard,
    "a shard missing": lose_shard,
    "a tensor missing": lose_tensor,
    "a tensor not in the shard that the index names": lose_tensor_in_shard,
    "a tensor that the index does not list": unlisted_tensor,
    "a tensor that the model does not have": extra_tensor,
    "a shape": wrong_shape,
    "a dtype": wrong_dtype,
    "a norm in fp8": fp8_norm,
    "tensors sharing bytes": overlap,
    "offsets backwards": backwards,
    "a shape against its bytes": contradiction,
    "a header of absurd length": header_of(b"\xff" * 64),
    "a header longer than the file": header_of((10**6).to_bytes(8, "little") + b"{}"),
    "a header that is no JSON": header_of((4).to_bytes(8, "little") + b"{no}"),
    "a header that is no table": header_of((2).to_bytes(8, "little") + b"[]"),
    "a header without offsets": header_of((10).to_bytes(8, "little") + b'{"a": {} }'),
    "an empty shard": header_of(b""),
    "a scale that is no number": scale_value(np.nan),
    "an infinite scale": scale_value(np.inf),
    "a negative scale": scale_value(-1.0),
    "a grid of scales": scale_shape,
    "a scale missing": scale_gone,
    "a scale of a plain weight": scale_of_nothing,
    "a weight that is no number": nan_weight,
    "an index leading up": index_to("../x.safetensors"),
    "an index with an absolute path": index_to("{outside}"),
    "an index leading through a link": index_to("link.safetensors"),
    "an index that is no JSON": text_of(INDEX, "{", "JSON"),
    "an index with a name that is none": text_of(
        INDEX, '{"weight_map": {"a": "\\u0000"}}', "weight_map"
    ),
    "an index without a map": text_of(INDEX, "{}", "weight_map"),
    "a config that is no JSON": text_of("config.json", "{]", "is not JSON"),
    "a config that is no object": text_of("config.json", "[]", "object"),
    "generation defaults that are no JSON": text_of("generation_config.json", "-"),
    "a config missing": no_config,
    "an index missing": no_index,
    "another quantisation": other_quantization,
    "other block sizes": other_blocks,
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_broken_checkpoint_is_one_error_that_names_the_culprit(what, hf_copy, edit):
    path = hf_copy("deepseek_fp8_mtp")
    words = CORRUPTIONS[what](path, edit)
    text = error_of(path)
    assert [word for word in words if word not in text] == [], text


def test_values_too_large_for_float16_are_refused(hf_copy, edit):
    path = hf_copy("qwen2_tied")
    with edit(path / "model.safetensors") as raw:
        shape = raw.entries["model.norm.weight"]["shape"]
        raw.put("model.norm.weight", "F32", shape, np.full(shape, 1e6, "<f4").tobytes())
    with pytest.raises(CheckpointError, match=r"norm\.weight: a value is too large"):
        load_params(path, "float16")
    load_params(path, "bfloat16")


def test_what_is_no_model_says_what_one_is(tmp_path):
    (tmp_path / "notes.txt").write_text("hello, world")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=str(path)):
            open_source(path)
