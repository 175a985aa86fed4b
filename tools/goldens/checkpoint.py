"""Writes a variant as a Hugging Face model directory with random weights.

Names, shapes and dtypes are those of the released checkpoints, written down here and
not asked of transformers: that transformers reads the directory back is then a check.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from goldens.variants import Variant

BLOCK = 128
SCALE = "_scale_inv"

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Tensors = dict[str, torch.Tensor]


def shapes(config: dict[str, Any]) -> Shapes:
    """Yields the name and shape of every tensor; linear weights are [out, in]."""
    vocab, width = config["vocab_size"], config["hidden_size"]
    yield "model.embed_tokens.weight", (vocab, width)
    layers = config["num_hidden_layers"]
    for layer in range(layers + config.get("num_nextn_predict_layers", 0)):
        prefix = f"model.layers.{layer}."
        for name, shape in _block(config, layer):
            yield prefix + name, shape
        if layer >= layers:
            yield prefix + "embed_tokens.weight", (vocab, width)
            yield prefix + "enorm.weight", (width,)
            yield prefix + "hnorm.weight", (width,)
            yield prefix + "eh_proj.weight", (width, 2 * width)
            yield prefix + "shared_head.norm.weight", (width,)
            yield prefix + "shared_head.head.weight", (vocab, width)
    yield "model.norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, width)


def _block(config: dict[str, Any], layer: int) -> Shapes:
    width = config["hidden_size"]
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)
    experts = config.get("n_routed_experts")
    attention = _mla(config) if experts else _gqa(config)
    for name, shape in attention:
        yield "self_attn." + name, shape
    if not experts or layer < config["first_k_dense_replace"]:
        yield from _mlp("mlp", width, config["intermediate_size"])
        return
    inner = config["moe_intermediate_size"]
    yield "mlp.gate.weight", (experts, width)
    yield "mlp.gate.e_score_correction_bias", (experts,)
    yield from _mlp("mlp.shared_experts", width, inner * config["n_shared_experts"])
    for expert in range(experts):
        yield from _mlp(f"mlp.experts.{expert}", width, inner)


def _mlp(name: str, width: int, inner: int) -> Shapes:
    yield f"{name}.gate_proj.weight", (inner, width)
    yield f"{name}.up_proj.weight", (inner, width)
    yield f"{name}.down_proj.weight", (width, inner)


def _mla(config: dict[str, Any]) -> Shapes:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    value, latent = config["v_head_dim"], config["kv_lora_rank"]
    if rank := config["q_lora_rank"]:
        yield "q_a_proj.weight", (rank, width)
        yield "q_a_layernorm.weight", (rank,)
        yield "q_b_proj.weight", (heads * (nope + rope), rank)
    else:
        yield "q_proj.weight", (heads * (nope + rope), width)
    yield "kv_a_proj_with_mqa.weight", (latent + rope, width)
    yield "kv_a_layernorm.weight", (latent,)
    yield "kv_b_proj.weight", (heads * (nope + value), latent)
    yield "o_proj.weight", (width, heads * value)


def _gqa(config: dict[str, Any]) -> Shapes:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim", width // heads)
    counts = {"q": heads, "k": config["num_key_value_heads"]}
    for letter, count in (counts | {"v": counts["k"]}).items():
        yield f"{letter}_proj.weight", (count * size, width)
        if config["model_type"] == "qwen2":
            yield f"{letter}_proj.bias", (count * size,)
    if config["model_type"] == "qwen3":
        yield "q_norm.weight", (size,)
        yield "k_norm.weight", (size,)
    yield "o_proj.weight", (width, heads * size)


def random_tensors(variant: Variant) -> Tensors:
    """Draws every tensor as it will be stored.

    Embeddings are as small as trained ones, so that a wrong norm epsilon shows; norms,
    biases and scales are far from one and zero, so that a forgotten one shows.
    """
    rng = np.random.default_rng(variant.seed)
    config = variant.config
    stored = getattr(torch, "bfloat16" if variant.dtype == "fp8" else variant.dtype)
    tensors: Tensors = {}
    for name, shape in shapes(config):
        if variant.dtype == "fp8" and _is_quantised(name):
            tensors[name], tensors[name + SCALE] = _random_blocks(rng, shape)
        else:
            values = torch.from_numpy(_random(rng, name, shape, config))
            is_router_bias = name.endswith("e_score_correction_bias")
            tensors[name] = values.to(torch.float32 if is_router_bias else stored)
    for name in tensors:  # the release stores the same embedding and head twice
        if name.endswith("shared_head.head.weight"):
            tensors[name] = tensors["lm_head.weight"].clone()
        elif name.endswith(".embed_tokens.weight"):
            tensors[name] = tensors["model.embed_tokens.weight"].clone()
    return tensors


def _is_quantised(name: str) -> bool:
    return "_proj" in name and name.endswith(".weight") and "eh_proj" not in name


def _random(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], config: dict[str, Any]
) -> np.ndarray:
    tied = config["tie_word_embeddings"]
    if name.endswith("norm.weight"):
        values = rng.uniform(0.5, 1.5, shape)
        if name == "model.norm.weight":
            # Without random signs a tied model would only repeat its input.
            values *= rng.choice([-1.0, 1.0], shape) * (8.0 if tied else 1.0)
    elif name.endswith("e_score_correction_bias"):
        values = rng.uniform(-0.2, 0.2, shape)
    elif name.endswith("bias"):
        values = rng.normal(0.0, 0.5, shape)
    elif "embed_tokens" in name:
        values = rng.normal(0.0, 0.04, shape)
        values[special_ids(config)] *= 0.1 if tied else 1.0
    elif "head" in name:
        values = rng.normal(0.0, 2.0 / math.sqrt(shape[1]), shape)
        values[special_ids(config)] *= 0.01
    else:
        values = rng.normal(0.0, 1.5 / math.sqrt(shape[1]), shape)
    return values.astype(np.float32)


def special_ids(config: dict[str, Any]) -> list[int]:
    """Returns the ids of bos and eos; their rows are damped and never chosen."""
    eos = config["eos_token_id"]
    return sorted({config["bos_token_id"], *(eos if isinstance(eos, list) else [eos])})


def _random_blocks(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws e4m3 values and their block scales, which differ widely on purpose."""
    values = np.clip(rng.normal(0.0, 100.0, shape), -448.0, 448.0).astype(np.float32)
    grid = [math.ceil(size / BLOCK) for size in shape]
    scales = rng.uniform(0.5, 2.0, grid) * 0.012 / math.sqrt(shape[1])
    return (
        torch.from_numpy(values).to(torch.float8_e4m3fn),
        torch.from_numpy(scales.astype(np.float32)),
    )


def dequantised(tensors: Tensors) -> Tensors:
    """Returns all tensors in float32, e4m3 blocks multiplied by their scales exactly.

    Element [r, c] belongs to block [r // 128, c // 128]; the last blocks may be short.
    """
    plain = {}
    for name, values in tensors.items():
        if name.endswith(SCALE):
            continue
        plain[name] = values.float()
        if name + SCALE in tensors:
            rows, columns = (torch.arange(size) // BLOCK for size in values.shape)
            plain[name] *= tensors[name + SCALE][rows][:, columns]
    return plain


def write(directory: Path, variant: Variant, tensors: Tensors) -> None:
    """Writes config.json, generation_config.json and the safetensors files."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("model*.safetensors*"):
        old.unlink()
    config = variant.config
    _write_json(directory / "config.json", config)
    generation = {
        "_from_model_config": True,
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "transformers_version": config["transformers_version"],
    }
    _write_json(directory / "generation_config.json", generation)
    metadata = {"format": "pt"}
    if variant.shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata)
        return
    places = _placement(variant, tensors)
    for file in sorted(set(places.values())):
        part = {name: tensors[name] for name in tensors if places[name] == file}
        save_file(part, directory / file, metadata)
    # R1's own index, too, has no total size.
    index = {"metadata": {}, "weight_map": dict(sorted(places.items()))}
    _write_json(directory / "model.safetensors.index.json", index)


def _placement(variant: Variant, tensors: Tensors) -> dict[str, str]:
    """Cuts the tensors into files in order; every fifth scale goes to the next file.

    In R1, too, 155 weights have their scale in another file.
    """
    total = variant.shards
    digits = 6 if variant.dtype == "fp8" else 5  # as R1 numbers its files
    places, scales = {}, 0
    for position, name in enumerate(tensors):
        shard = position * total // len(tensors)
        if name.endswith(SCALE):
            shard = (shard + (scales % 5 == 0)) % total
            scales += 1
        places[name] = f"model-{shard + 1:05}-of-{total:0{digits}}.safetensors"
    return places


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
