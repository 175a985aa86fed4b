"""Writes one set of float32 weights in the formats of r1jax and of its peers."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
from safetensors.numpy import save_file

from r1jax import parameters
from r1jax.config_hf import from_hf
from r1jax.typing import PyTree
from r1jax.weights import names, open_source

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
# The preset `deepseek-118m`, in transformers' words.
DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 16384,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "rope_interleave": True,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}
FIELDS = {"smollm2": SMOLLM2, "deepseek-118m": DEEPSEEK}
_SEED = 0


def write_smollm2(source: Path, directory: Path) -> Path:
    """Writes a GGUF file's weights, dequantised, as a Hugging Face directory."""
    params = open_source(source).params("float32")
    return write_directory(SMOLLM2, params, directory)


def write_deepseek(directory: Path) -> Path:
    """Writes random weights as a Hugging Face directory."""
    params = parameters.init(from_hf(DEEPSEEK), jax.random.key(_SEED))
    return write_directory(DEEPSEEK, params, directory)


def write_directory(fields: dict[str, Any], params: PyTree, directory: Path) -> Path:
    """Writes a parameter tree under the names of the released checkpoints."""
    config = from_hf(fields)
    table = names.table(config, names.hf_layout(config))
    tree = jax.tree.map(np.asarray, params)
    tensors = {}
    for name, shape in table.shapes.items():
        tensors[name] = np.empty(shape, np.float32)
        for piece in table.by_source[name]:
            leaf = tree
            for key in piece.path:
                leaf = leaf[key]
            target, value = piece.turn.align(tensors[name], leaf[piece.index])
            target[...] = value
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(fields, indent=1))
    return directory


def write_gguf(source: Path, target: Path) -> Path:
    """Copies a GGUF file with every tensor dequantised to float32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        written_already = name.startswith("GGUF.") or name == "general.architecture"
        if not written_already and name != "general.file_type":
            kind, *inner = field.types
            writer.add_key_value(
                name, field.contents(), kind, inner[0] if inner else None
            )
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def bytes_read(fields: dict[str, Any]) -> int:
    """Returns the float32 bytes that decoding one token must read.

    Those are all weights but the experts not chosen and, where the head is a matrix
    of its own, the embedding.
    """
    config = from_hf(fields)
    values = 0.0
    for name, shape in names.table(config, names.hf_layout(config)).shapes.items():
        share = 1.0
        if ".experts." in name and config.moe:
            share = config.moe.experts_per_token / config.moe.experts
        if name == "model.embed_tokens.weight" and not config.tied_head:
            share = 0.0
        values += math.prod(shape) * share
    return round(4 * values)
