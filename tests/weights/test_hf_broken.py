"""A broken Hugging Face directory is one error that names the culprit."""

import json

import numpy as np
import pytest

from r1jax.errors import CheckpointError
from r1jax.weights import open_source
from r1jax.weights.hf import load_params
from weights.hf_copies import FP8, INDEX, error_of, raw_shards, set_json

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
