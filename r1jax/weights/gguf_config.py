"""Reads a GGUF file's metadata into a `ModelConfig`.

The one place that knows the keys of llama.cpp's `llama`, `qwen2`, `qwen3` and
`deepseek2` architectures.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.config import (
    GqaConfig,
    Llama3Scaling,
    MlaConfig,
    ModelConfig,
    MoeConfig,
    RopeConfig,
    Yarn,
)
from r1jax.config_hf import yarn_magnitude
from r1jax.errors import ConfigError

FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "deepseek2": "deepseek_v3",
}
_SIGMOID = 2  # of expert_gating_func
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Files older than the keys of expert groups, by number of experts: V3 and R1.
_OLD_GROUPS = {256: (8, 4)}
# The bounds of Llama 3.1's scaling, in rotations over the original context.
_LOW, _HIGH = 1.0, 4.0


def from_gguf(
    fields: Mapping[str, Any],
    vocab_size: int,
    tied_head: bool,
    rope_factors: np.ndarray | None,
) -> ModelConfig:
    """Builds a config from the metadata and what only the tensors tell.

    Args:
      fields: The metadata.
      vocab_size: Rows of the embedding.
      tied_head: Whether the file has no output head of its own.
      rope_factors: By which each frequency is divided, where the file says.

    Raises:
      ConfigError: The architecture is not supported, a key is missing or of the wrong
        kind, or asks for mathematics that r1jax does not have.
    """
    architecture = fields.get("general.architecture")
    if architecture not in FAMILIES:
        raise ConfigError(
            f"general.architecture is {architecture!r}",
            f"r1jax reads GGUF files of {', '.join(FAMILIES)}",
            "use a file of one of the R1, V3 or distill releases",
        )
    keys = _Keys(fields, architecture)
    try:
        return _model(keys, FAMILIES[architecture], vocab_size, tied_head, rope_factors)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"the metadata has a value of the wrong kind: {error}",
            "sizes are integers and scales are numbers",
            "convert the model to GGUF again",
        ) from None


class _Keys:
    """The metadata of one architecture."""

    def __init__(self, fields: Mapping[str, Any], architecture: str) -> None:
        self.fields = fields
        self._architecture = architecture

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(f"{self._architecture}.{name}", default)

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ConfigError(
                f"the GGUF file lacks {self._architecture}.{name}",
                "the value decides shapes or mathematics and has no safe default",
                "convert the model to GGUF again with a newer llama.cpp",
            )
        return value


def _model(
    keys: _Keys,
    family: str,
    vocab_size: int,
    tied_head: bool,
    rope_factors: np.ndarray | None,
) -> ModelConfig:
    layers = int(keys.need("block_count"))
    moe = _moe(keys) if family == "deepseek_v3" else None
    if moe is None and keys.get("expert_count"):
        _refuse("expert_count", keys.get("expert_count"), "experts outside deepseek2")
    first = keys.get("leading_dense_block_count", 0) if moe else layers
    dense = min(int(first), layers)
    scaling = _scaling(keys, family, rope_factors)
    rope = RopeConfig(
        theta=float(keys.get("rope.freq_base", 10000.0)),
        interleaved=family == "deepseek_v3",
        scaling=scaling,
    )
    tokens = [keys.fields.get(f"tokenizer.ggml.{key}") for key in _END_KEYS]
    return ModelConfig(
        family=family,
        vocab_size=vocab_size,
        width=int(keys.need("embedding_length")),
        layers=layers,
        dense_layers=dense,
        mlp_width=int(keys.need("feed_forward_length")),
        attention=(_mla if family == "deepseek_v3" else _gqa)(keys, family, rope),
        moe=moe if dense < layers else None,
        mtp_layers=0,
        tied_head=tied_head,
        norm_eps=_decimal(keys.need("attention.layer_norm_rms_epsilon")),
        max_positions=int(keys.need("context_length")),
        bos_id=keys.fields.get("tokenizer.ggml.bos_token_id"),
        eos_ids=tuple(dict.fromkeys(t for t in tokens if t is not None)),
    )


def _gqa(keys: _Keys, family: str, rope: RopeConfig) -> GqaConfig:
    heads = int(keys.need("attention.head_count"))
    head_dim = int(
        keys.get("attention.key_length") or keys.need("embedding_length") // heads
    )
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.get(name, head_dim) != head_dim:
            _refuse(name, keys.get(name), f"heads of {head_dim} values, all rotated")
    return GqaConfig(
        heads=heads,
        kv_heads=int(keys.get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        rope=rope,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def _mla(keys: _Keys, family: str, rope: RopeConfig) -> MlaConfig:
    # Files with split keys and values say the latent's widths without `_mla`.
    key, value = (
        keys.get(f"attention.{name}_mla") or keys.need(f"attention.{name}")
        for name in ("key_length", "value_length")
    )
    rope_dim = int(keys.need("rope.dimension_count"))
    return MlaConfig(
        heads=int(keys.need("attention.head_count")),
        q_rank=keys.get("attention.q_lora_rank") or None,
        kv_rank=int(keys.need("attention.kv_lora_rank")),
        nope_dim=int(key) - rope_dim,
        rope_dim=rope_dim,
        value_dim=int(value),
        rope=rope,
    )


def _moe(keys: _Keys) -> MoeConfig:
    scores = keys.get("expert_gating_func")
    if scores != _SIGMOID:
        _refuse("expert_gating_func", scores, "sigmoid scores (2)")
    experts = int(keys.need("expert_count"))
    groups = _OLD_GROUPS.get(experts, (1, 1))
    return MoeConfig(
        experts=experts,
        experts_per_token=int(keys.need("expert_used_count")),
        expert_width=int(keys.need("expert_feed_forward_length")),
        shared_experts=int(keys.get("expert_shared_count", 0)),
        expert_groups=int(keys.get("expert_group_count", groups[0])),
        groups_per_token=int(keys.get("expert_group_used_count", groups[1])),
        routed_scale=_decimal(keys.get("expert_weights_scale", 1.0)),
        normalize=bool(keys.get("expert_weights_norm", False)),
    )


def _scaling(
    keys: _Keys, family: str, rope_factors: np.ndarray | None
) -> Yarn | Llama3Scaling | None:
    kind = keys.get("rope.scaling.type", "none")
    if rope_factors is not None and kind == "none":
        return _llama3(keys, rope_factors)
    if kind == "none":
        return None
    if kind != "yarn" or rope_factors is not None:
        _refuse("rope.scaling.type", kind, "yarn, none, and Llama 3.1's factors")
    factor = _decimal(keys.need("rope.scaling.factor"))
    log = _decimal(keys.get("rope.scaling.yarn_log_multiplier", 0.0))
    amplitude = round(yarn_magnitude(factor), 12)
    if keys.get("rope.scaling.attn_factor") is not None:
        amplitude = round(amplitude * keys.get("rope.scaling.attn_factor"), 6)
    if family == "deepseek_v3":
        # Its mscale and mscale_all_dim are equal, and cancel out of cos and sin.
        amplitude = 1.0
    return Yarn(
        factor=factor,
        original_positions=int(keys.need("rope.scaling.original_context_length")),
        beta_fast=_decimal(keys.get("rope.scaling.yarn_beta_fast", 32.0)),
        beta_slow=_decimal(keys.get("rope.scaling.yarn_beta_slow", 1.0)),
        amplitude=amplitude,
        softmax_mscale=round(10 * log, 6),
    )


def _llama3(keys: _Keys, factors: np.ndarray) -> Llama3Scaling | None:
    """Finds the scaling behind the factor of each frequency; the file has no more.

    The last frequency is divided by the whole factor. Between the two bounds the share
    of the plain frequency grows with the rotations that fit into the original context,
    which tells its length. The factors must then come out again.
    """
    if np.allclose(factors, 1.0):
        return None
    theta, factor = float(keys.get("rope.freq_base", 10000.0)), float(factors[-1])
    with np.errstate(all="ignore"):  # nonsense is told below
        wave = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))
        plain = (1 / factors - 1 / factor) / (1 - 1 / factor)
        lengths = (_LOW + plain * (_HIGH - _LOW)) * wave
        between = (plain > 1e-4) & (plain < 1 - 1e-4)
        # With no frequency between the bounds, any length between them is as good.
        fits = lengths[between] if between.any() else lengths[plain > 0.5][-1:] + 1
        original = round(float(np.median(fits))) if fits.size else 0
        smooth = np.clip((original / wave - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
        again = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(factors, again, rtol=1e-3):
        raise ConfigError(
            f"rope_freqs.weight divides frequencies by {factors[0]:g} to {factor:g}",
            "that is not Llama 3.1's scaling",
            "use a file of one of the R1 distill releases",
        )
    return Llama3Scaling(factor, _LOW, _HIGH, original)


def _decimal(value: float) -> float:
    """Takes a float32 for the short decimal it was written from (1e-6, not 9.99e-7)."""
    return float(f"{float(value):.7g}")


def _refuse(name: str, value: Any, wanted: str) -> None:
    raise ConfigError(
        f"the GGUF file's {name} is {value!r}",
        f"r1jax has only {wanted}",
        "use a file of one of the R1, V3 or distill releases",
    )
