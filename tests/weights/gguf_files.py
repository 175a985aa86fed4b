"""Writes GGUF files of golden checkpoints, as llama.cpp's converter does.

The `gguf` package names the tensors, and the rows of llama's queries and keys are
reordered.
"""

from pathlib import Path

import gguf
import numpy as np

from golden_files import golden
from r1jax.config import Llama3Scaling, MlaConfig
from r1jax.weights.hf import HfCheckpoint

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen2_tied": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "deepseek_yarn": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_plain": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_no_qlora": gguf.MODEL_ARCH.DEEPSEEK2,
}
TOKENS = ["<s>", "</s>", "a", "\N{GREEK SMALL LETTER ALPHA}"]


def hf_tensors(name: str) -> dict[str, np.ndarray]:
    source = HfCheckpoint(golden(name).directory)
    return {
        tensor: source.tensor(tensor).read(0, shape[0], None, np.float32)
        for tensor, shape in source.table.shapes.items()
    }


def gguf_tensors(name: str, split: bool) -> dict[str, np.ndarray]:
    """Renames and rearranges the tensors as llama.cpp's converter does."""
    config = HfCheckpoint(golden(name).directory).config
    mapping = gguf.get_tensor_name_map(ARCHITECTURES[name], config.layers)
    renamed: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for tensor, values in hf_tensors(name).items():
        if ".experts." in tensor:
            prefix, _, rest = tensor.partition(".experts.")
            whole = f"{prefix}.experts.{rest.split('.')[1]}.weight"
            experts.setdefault(whole, []).append(values)
            continue
        kind = tensor.split(".")[-2]
        if config.family == "llama" and kind in ("q_proj", "k_proj"):
            heads = {"q_proj": config.attention.heads}
            heads = heads.get(kind, config.attention.kv_heads)
            pairs = values.reshape(heads, 2, -1, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        if split and kind == "kv_b_proj":
            a = config.attention
            both = values.reshape(a.heads, a.nope_dim + a.value_dim, a.kv_rank)
            k = both[:, : a.nope_dim].swapaxes(1, 2)
            base = mapping.get_name(tensor, (".weight",)).replace("kv_b.weight", "")
            renamed[f"{base}k_b.weight"] = k
            renamed[f"{base}v_b.weight"] = both[:, a.nope_dim :]
            continue
        found = mapping.get_name(tensor, (".weight", ".bias"))
        if kind == "gate" and tensor.endswith("e_score_correction_bias"):
            found = f"blk.{tensor.split('.')[2]}.exp_probs_b.bias"
        renamed[found] = values
    for tensor, list_ in experts.items():
        renamed[mapping.get_name(tensor, (".weight",))] = np.stack(list_)
    return {n: np.ascontiguousarray(v) for n, v in renamed.items()}


def write_gguf(path: Path, name: str, *, split: bool = False, kind=None, edit=None):
    """Writes a golden checkpoint as GGUF; `edit` may change its tensors first."""
    source = HfCheckpoint(golden(name).directory)
    config, attention = source.config, source.config.attention
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[name]])
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(attention.heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(attention.rope.theta)
    if isinstance(attention, MlaConfig):
        add_latent_keys(writer, config, split)
    else:
        writer.add_head_count_kv(attention.kv_heads)
        writer.add_key_length(attention.head_dim)
        writer.add_value_length(attention.head_dim)
    tensors = gguf_tensors(name, split)
    scaling = attention.rope.scaling
    if isinstance(scaling, Llama3Scaling):
        tensors["rope_freqs.weight"] = llama3_factors(config)
    elif scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_positions)
    if scaling is not None and config.family == "deepseek_v3":
        writer.add_rope_scaling_yarn_log_mul(0.1 * scaling.softmax_mscale)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 1, 1])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if edit:
        edit(tensors)
    for tensor, values in tensors.items():
        packs = kind is not None and values.ndim > 1 and values.shape[-1] % 32 == 0
        data = gguf.quantize(values, kind) if packs else values
        writer.add_tensor(tensor, data, raw_dtype=kind if packs else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_latent_keys(writer, config, split):
    a, moe = config.attention, config.moe
    key, value = a.nope_dim + a.rope_dim, a.value_dim
    if split:
        writer.add_key_length(a.latent_dim)
        writer.add_value_length(a.kv_rank)
        writer.add_key_length_mla(key)
        writer.add_value_length_mla(value)
        writer.add_head_count_kv(1)
    else:
        writer.add_key_length(key)
        writer.add_value_length(value)
        writer.add_head_count_kv(a.heads)
    if a.q_rank:
        writer.add_q_lora_rank(a.q_rank)
    writer.add_kv_lora_rank(a.kv_rank)
    writer.add_rope_dimension_count(a.rope_dim)
    writer.add_leading_dense_block_count(config.dense_layers)
    writer.add_expert_count(moe.experts)
    writer.add_expert_used_count(moe.experts_per_token)
    writer.add_expert_shared_count(moe.shared_experts)
    writer.add_expert_feed_forward_length(moe.expert_width)
    writer.add_expert_weights_scale(moe.routed_scale)
    writer.add_expert_weights_norm(moe.normalize)
    writer.add_expert_group_count(moe.expert_groups)
    writer.add_expert_group_used_count(moe.groups_per_token)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def llama3_factors(config) -> np.ndarray:
    """By what Llama 3.1's scaling divides each frequency, as llama.cpp computes it."""
    scaling, factors = config.attention.rope.scaling, []
    dim = config.attention.head_dim
    low = scaling.original_positions / scaling.low_freq_factor
    high = scaling.original_positions / scaling.high_freq_factor
    for i in range(0, dim, 2):
        wave = 2 * np.pi * config.attention.rope.theta ** (i / dim)
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(scaling.factor)
        else:
            smooth = (scaling.original_positions / wave - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)
