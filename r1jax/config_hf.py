"""Reads a Hugging Face `config.json` into a `ModelConfig`.

The one place that knows the field names of transformers' configs, in the style of the
releases (`rope_theta`, `rope_scaling`, `torch_dtype`) and of transformers 5
(`rope_parameters`, `dtype`). A field that would change the mathematics and is not
handled here is refused, never skipped.
"""

import math
from collections.abc import Mapping
from typing import Any

from r1jax.config import (
    GqaConfig,
    Llama3Scaling,
    MlaConfig,
    ModelConfig,
    MoeConfig,
    RopeConfig,
    Yarn,
)
from r1jax.errors import ConfigError

# Values that these fields must have, where present: anything else is another model.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "use_mrope": (False, None),
    "scoring_func": ("sigmoid", None),
    "topk_method": ("noaux_tc", None),
    "moe_layer_freq": (1, None),
    "attention_dropout": (0, 0.0, None),
    "rope_interleave": (True, None),
}


def from_hf(fields: Mapping[str, Any]) -> ModelConfig:
    """Builds a config from the parsed `config.json`.

    Raises:
      ConfigError: The model type is not supported, a needed field is missing, or a
        field asks for mathematics that r1jax does not have.
    """
    family = fields.get("model_type")
    if family not in ("deepseek_v3", "qwen2", "llama", "qwen3"):
        raise ConfigError(
            f"model_type is {family!r}",
            "r1jax reads deepseek_v3, qwen2, llama and qwen3 checkpoints",
            "convert one of the R1, V3 or distill releases",
        )
    for name, allowed in _FIXED.items():
        if name in fields and fields[name] not in allowed:
            raise ConfigError(
                f"{name} is {fields[name]!r}",
                "this would change the mathematics, and r1jax has only "
                f"{name} = {allowed[0]!r}",
                "use a checkpoint of the R1, V3 or distill releases",
            )
    try:
        return _model(str(family), fields)
    except KeyError as missing:
        raise ConfigError(
            f"config.json of a {family} model lacks {missing}",
            "the value decides shapes or mathematics and has no safe default",
            "take the config.json that was released with the weights",
        ) from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"config.json of a {family} model has a value of the wrong kind: {error}",
            "sizes are integers and scales are numbers",
            "take the config.json that was released with the weights",
        ) from None


def _model(family: str, fields: Mapping[str, Any]) -> ModelConfig:
    moe = _moe(fields) if family == "deepseek_v3" else None
    layers = int(fields["num_hidden_layers"])
    dense = min(int(fields["first_k_dense_replace"]), layers) if moe else layers
    eos = fields.get("eos_token_id")
    return ModelConfig(
        family=family,
        vocab_size=int(fields["vocab_size"]),
        width=int(fields["hidden_size"]),
        layers=layers,
        dense_layers=dense,
        mlp_width=int(fields["intermediate_size"]),
        attention=_mla(fields) if family == "deepseek_v3" else _gqa(family, fields),
        moe=moe if dense < layers else None,
        mtp_layers=int(fields.get("num_nextn_predict_layers") or 0),
        tied_head=bool(fields.get("tie_word_embeddings", False)),
        norm_eps=float(fields["rms_norm_eps"]),
        max_positions=int(fields["max_position_embeddings"]),
        bos_id=fields.get("bos_token_id"),
        eos_ids=tuple(eos if isinstance(eos, list) else [] if eos is None else [eos]),
    )


def _gqa(family: str, fields: Mapping[str, Any]) -> GqaConfig:
    heads = int(fields["num_attention_heads"])
    head_dim = fields.get("head_dim") or int(fields["hidden_size"]) // heads
    return GqaConfig(
        heads=heads,
        kv_heads=int(fields.get("num_key_value_heads") or heads),
        head_dim=int(head_dim),
        rope=_rope(fields, interleaved=False),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def _mla(fields: Mapping[str, Any]) -> MlaConfig:
    q_rank = fields["q_lora_rank"]
    return MlaConfig(
        heads=int(fields["num_attention_heads"]),
        q_rank=None if q_rank is None else int(q_rank),
        kv_rank=int(fields["kv_lora_rank"]),
        nope_dim=int(fields["qk_nope_head_dim"]),
        rope_dim=int(fields["qk_rope_head_dim"]),
        value_dim=int(fields["v_head_dim"]),
        rope=_rope(fields, interleaved=True),
    )


def _moe(fields: Mapping[str, Any]) -> MoeConfig:
    return MoeConfig(
        experts=int(fields["n_routed_experts"]),
        experts_per_token=int(fields["num_experts_per_tok"]),
        expert_width=int(fields["moe_intermediate_size"]),
        shared_experts=int(fields["n_shared_experts"]),
        expert_groups=int(fields["n_group"]),
        groups_per_token=int(fields["topk_group"]),
        routed_scale=float(fields["routed_scaling_factor"]),
        normalize=bool(fields["norm_topk_prob"]),
    )


def _rope(fields: Mapping[str, Any], interleaved: bool) -> RopeConfig:
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", fields.get("rope_theta"))
    if theta is None:
        raise KeyError("rope_theta")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RopeConfig(float(theta), interleaved)
    if kind == "llama3":
        return RopeConfig(float(theta), interleaved, _llama3(scaling))
    if kind == "yarn":
        return RopeConfig(float(theta), interleaved, _yarn(scaling))
    raise ConfigError(
        f"rope scaling {kind!r} is not supported",
        "r1jax has yarn, llama3 and none",
        "use a checkpoint of the R1, V3 or distill releases",
    )


def _llama3(scaling: Mapping[str, Any]) -> Llama3Scaling:
    return Llama3Scaling(
        factor=float(scaling["factor"]),
        low_freq_factor=float(scaling["low_freq_factor"]),
        high_freq_factor=float(scaling["high_freq_factor"]),
        original_positions=int(scaling["original_max_position_embeddings"]),
    )


def _yarn(scaling: Mapping[str, Any]) -> Yarn:
    """Resolves the amplitude of cos and sin once, here.

    `attention_factor` wins where given. With `mscale` and `mscale_all_dim` (DeepSeek)
    it is the ratio of their magnitudes. Otherwise it is YaRN's own magnitude, times
    `attn_factor` where a release carries it (R1-0528-Qwen3-8B: the product is 1.0, as
    its author meant; transformers ignores the key and scales by 1.1386).
    """
    factor = float(scaling["factor"])
    mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if scaling.get("attention_factor") is not None:
        amplitude = float(scaling["attention_factor"])
    elif mscale and all_dim:
        amplitude = yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all_dim)
    else:
        amplitude = yarn_magnitude(factor) * float(scaling.get("attn_factor", 1.0))
    return Yarn(
        factor=factor,
        original_positions=int(scaling["original_max_position_embeddings"]),
        beta_fast=float(scaling.get("beta_fast") or 32),
        beta_slow=float(scaling.get("beta_slow") or 1),
        amplitude=round(amplitude, 12),
        softmax_mscale=float(all_dim or 0.0),
    )


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention magnitude, `0.1 mscale ln(factor) + 1` (1 below factor 1)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
