"""Writes a `ModelConfig` as a Hugging Face `config.json`; undoes `config_hf`."""

from typing import Any

from r1jax.config import GqaConfig, MlaConfig, ModelConfig, RopeConfig, Yarn
from r1jax.config_hf import yarn_magnitude
from r1jax.errors import ConfigError

_CLASSES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields that `config_hf.from_hf` reads, in the releases' style.

    Raises:
      ConfigError: A DeepSeek model without experts, which transformers does not have.
    """
    eos = list(config.eos_ids)
    fields = {
        "architectures": [_CLASSES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "bos_token_id": config.bos_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "use_cache": True,
        **_rope(config.attention.rope),
    }
    if isinstance(config.attention, GqaConfig):
        return fields | _gqa(config.attention)
    return fields | _mla(config.attention) | _moe(config)


def _gqa(attention: GqaConfig) -> dict[str, Any]:
    return {
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
    }


def _mla(attention: MlaConfig) -> dict[str, Any]:
    return {
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.heads,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.value_dim,
    }


def _moe(config: ModelConfig) -> dict[str, Any]:
    moe = config.moe
    if moe is None:
        raise ConfigError(
            f"all {config.layers} layers of this {config.family} model are dense",
            "transformers has no such model: its config.json must name experts",
            "convert it from a Hugging Face directory, whose config.json is kept",
        )
    return {
        "first_k_dense_replace": config.dense_layers,
        "moe_layer_freq": 1,
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.expert_width,
        "n_shared_experts": moe.shared_experts,
        "n_group": moe.expert_groups,
        "topk_group": moe.groups_per_token,
        "routed_scaling_factor": moe.routed_scale,
        "norm_topk_prob": moe.normalize,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": config.mtp_layers,
    }


def _rope(rope: RopeConfig) -> dict[str, Any]:
    scaling = rope.scaling
    if scaling is None:
        return {"rope_theta": rope.theta, "rope_scaling": None}
    fields: dict[str, Any] = {
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
    if isinstance(scaling, Yarn):
        fields |= {"type": "yarn", "rope_type": "yarn"} | _amplitude(scaling)
        fields |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    else:
        fields |= {
            "rope_type": "llama3",
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
        }
    return {"rope_theta": rope.theta, "rope_scaling": fields}


def _amplitude(yarn: Yarn) -> dict[str, float]:
    """Says what multiplies cos and sin, and the softmax, in the release's words."""
    all_dim = yarn.softmax_mscale
    if all_dim and yarn.amplitude == 1:
        return {"mscale": all_dim, "mscale_all_dim": all_dim}
    more = {"mscale_all_dim": all_dim} if all_dim else {}
    if not all_dim and yarn.amplitude == round(yarn_magnitude(yarn.factor), 12):
        return {}
    return more | {"attention_factor": yarn.amplitude}
