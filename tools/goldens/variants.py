"""The tiny models whose answers are kept: one per path through the code.

Every config is written as the released ones are (`rope_theta`, `rope_scaling` and
`torch_dtype` at the top level), with sizes that share no common value by accident, so
that a mixed-up axis shows.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A tiny model to be written and asked.

    Attributes:
      name: Directory of the model under `tests/goldens`.
      config: The model's `config.json`.
      seed: Of weights and prompts; chosen so that no answer hangs on a near tie.
      dtype: Of the stored weights; with "fp8", linear weights are e4m3 blocks.
      shards: Number of safetensors files.
    """

    name: str
    config: dict[str, Any]
    seed: int
    dtype: str = "bfloat16"
    shards: int = 1


def yarn(factor: int, original: int) -> dict[str, Any]:
    """Returns DeepSeek's YaRN as R1's config.json writes it, for other lengths."""
    return {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": factor,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": original,
        "type": "yarn",
    }


def deepseek(**sizes: Any) -> dict[str, Any]:
    """Returns a tiny DeepSeek-V3 config; `sizes` replaces what differs."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 72,
        "kv_lora_rank": 16,
        "max_position_embeddings": 512,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 8,
        "moe_layer_freq": 1,
        "n_group": 4,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 2,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.3",
        "use_cache": True,
        "v_head_dim": 16,
        "vocab_size": 96,
    } | sizes


def dense(family: str, **sizes: Any) -> dict[str, Any]:
    """Returns a tiny Qwen2, Qwen3 or Llama config; `sizes` replaces what differs."""
    return {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 95,
        "eos_token_id": 95,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "model_type": family,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.0",
        "use_cache": True,
        "vocab_size": 96,
    } | sizes


FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
SLIDING = {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 1}

VARIANTS = (
    Variant(
        "deepseek_yarn",
        deepseek(num_hidden_layers=3, qk_rope_head_dim=16, rope_scaling=yarn(8, 64)),
        seed=9,
        shards=2,
    ),
    Variant(
        "deepseek_plain",
        deepseek(v_head_dim=24, n_shared_experts=2, torch_dtype="float16"),
        seed=1,
        dtype="float16",
    ),
    Variant(
        "deepseek_no_qlora",
        deepseek(
            hidden_size=48,
            q_lora_rank=None,
            qk_nope_head_dim=24,
            rope_scaling=yarn(4, 128),
            torch_dtype="float32",
        ),
        seed=2,
        dtype="float32",
    ),
    Variant(
        "deepseek_fp8_mtp",
        deepseek(
            hidden_size=136,
            intermediate_size=144,
            max_position_embeddings=1280,
            n_routed_experts=8,
            num_experts_per_tok=3,
            num_nextn_predict_layers=1,
            q_lora_rank=40,
            qk_nope_head_dim=32,
            quantization_config=FP8,
            rope_scaling=yarn(40, 32),
            v_head_dim=24,
        ),
        seed=8,
        dtype="fp8",
        shards=3,
    ),
    Variant("qwen2", dense("qwen2", rope_theta=1000000.0, **SLIDING), seed=2),
    Variant(
        "qwen2_tied",
        dense(
            "qwen2",
            hidden_size=48,
            intermediate_size=80,
            rms_norm_eps=1e-05,
            tie_word_embeddings=True,
            torch_dtype="float32",
            **SLIDING,
        ),
        seed=1,
        dtype="float32",
    ),
    Variant(
        "llama",
        dense(
            "llama",
            attention_bias=False,
            bos_token_id=88,
            eos_token_id=[89, 93, 94],
            mlp_bias=False,
            num_attention_heads=8,
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_scaling={
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            rope_theta=500000.0,
        ),
        seed=1,
    ),
    Variant(
        "qwen3",
        dense(
            "qwen3",
            attention_bias=False,
            bos_token_id=94,
            head_dim=32,
            max_position_embeddings=256,
            max_window_layers=2,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            rope_theta=1000000,
            sliding_window=None,
            use_sliding_window=False,
        ),
        seed=1,
    ),
)
