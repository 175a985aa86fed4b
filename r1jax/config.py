"""What a model is: sizes and constants, frozen, in this project's own words.

A `ModelConfig` comes from a preset (`from_dict`) or from a Hugging Face `config.json`
(`r1jax.config_hf`). Sizes have no defaults: whoever makes a config states them.
Where arrays lie, in which dtype, and how they are computed is decided elsewhere.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from r1jax.errors import ConfigError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Yarn:
    """YaRN context extension (arXiv 2309.00071, section 3.4).

    Attributes:
      factor: How many times the original context is stretched.
      original_positions: Context length before the extension, in tokens.
      beta_fast: Rotations over the original context above which nothing is changed.
      beta_slow: Rotations below which the frequency is divided by `factor`.
      amplitude: Multiplies cos and sin.
      softmax_mscale: DeepSeek's `mscale_all_dim`: the softmax scale is multiplied by
        the square of `0.1 * softmax_mscale * ln(factor) + 1`; 0 leaves it alone.
    """

    factor: float
    original_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    amplitude: float = 1.0
    softmax_mscale: float = 0.0


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's frequency scaling: long wavelengths are divided by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: base frequency, scaling, and which dimensions form a pair.

    Attributes:
      theta: Base of the frequencies.
      interleaved: True where pair i is (2i, 2i+1), as in DeepSeek's checkpoints;
        False where it is (i, i + width/2), as in Qwen's and Llama's.
      scaling: None for plain frequencies.
    """

    theta: float
    interleaved: bool = False
    scaling: Yarn | Llama3Scaling | None = None


@dataclass(frozen=True)
class GqaConfig:
    """Grouped-query attention: `heads` queries share `kv_heads` keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: RopeConfig
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def rotating_dim(self) -> int:
        """Width of a head's rotating part: all of it."""
        return self.head_dim

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{self.heads} query heads cannot share {self.kv_heads} key heads",
                "each key head serves an equal group of query heads",
                "set heads to a multiple of kv_heads",
            )


@dataclass(frozen=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    `q_rank` is None where queries have no latent of their own.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: RopeConfig

    @property
    def rotating_dim(self) -> int:
        """Width of a head's rotating part."""
        return self.rope_dim

    @property
    def latent_dim(self) -> int:
        """Values cached for a token and layer: the latent and the shared rope key."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True)
class MoeConfig:
    """DeepSeekMoE with the auxiliary-loss-free router (arXiv 2412.19437, 2.1.2)."""

    experts: int
    experts_per_token: int
    expert_width: int
    shared_experts: int
    expert_groups: int
    groups_per_token: int
    routed_scale: float
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.experts % self.expert_groups:
            raise ConfigError(
                f"{self.experts} experts do not make {self.expert_groups} groups",
                "the router limits choice to whole groups of consecutive experts",
                "set experts to a multiple of expert_groups",
            )
        allowed = self.experts // self.expert_groups * self.groups_per_token
        if self.experts_per_token > allowed:
            raise ConfigError(
                f"{self.experts_per_token} experts a token, but only {allowed} allowed",
                f"{self.groups_per_token} groups of "
                f"{self.experts // self.expert_groups} experts stay after the limit",
                "raise groups_per_token or lower experts_per_token",
            )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
      family: One of `FAMILIES`; names the checkpoint layout, not the mathematics.
      vocab_size: Rows of the embedding (the tokenizer may know fewer).
      width: Model width D.
      layers: Transformer layers, without the multi-token-prediction ones.
      dense_layers: How many of the first layers have a plain feed-forward.
      mlp_width: Feed-forward width F of the dense layers.
      attention: Which attention, and its sizes.
      moe: The experts of the remaining layers; None where all layers are dense.
      mtp_layers: Multi-token-prediction layers stored behind the last layer.
      tied_head: True where the output head is the embedding.
      norm_eps: Added to the mean square in RMSNorm.
      max_positions: Longest context, in tokens.
      bos_id: The checkpoint's own word for the first token; the tokenizer's counts.
      eos_ids: Tokens that end an answer.
    """

    family: str
    vocab_size: int
    width: int
    layers: int
    dense_layers: int
    mlp_width: int
    attention: GqaConfig | MlaConfig
    moe: MoeConfig | None
    mtp_layers: int
    tied_head: bool
    norm_eps: float
    max_positions: int
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(
                f"unknown model family {self.family!r}",
                f"the families are {', '.join(FAMILIES)}",
                "use one of them",
            )
        if (self.moe is None) != (self.dense_layers == self.layers):
            raise ConfigError(
                f"{self.dense_layers} of {self.layers} layers are dense, "
                f"moe={self.moe}",
                "layers that are not dense need experts, and experts need layers",
                "set dense_layers = layers, or give a MoeConfig",
            )

    @property
    def moe_layers(self) -> int:
        """Number of layers with experts."""
        return self.layers - self.dense_layers

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """Builds a config from a preset's nested mapping.

        Raises:
          ConfigError: A field is unknown (the nearest known name is offered),
            missing, or of the wrong kind.
        """
        fields = dict(fields)
        kind = MlaConfig if "kv_rank" in fields.get("attention", {}) else GqaConfig
        attention = dict(fields.get("attention", {}))
        attention["rope"] = _rope(attention.get("rope", {}))
        fields["attention"] = _build(kind, attention, "attention")
        if fields.get("moe") is not None:
            fields["moe"] = _build(MoeConfig, fields["moe"], "moe")
        if "eos_ids" in fields:
            fields["eos_ids"] = tuple(fields["eos_ids"])
        return _build(cls, fields, "model")

    def to_dict(self) -> dict[str, Any]:
        """Returns the nested mapping that `from_dict` reads (JSON-serialisable)."""
        return dataclasses.asdict(self)


FAMILIES = ("deepseek_v3", "qwen2", "llama", "qwen3")


def _rope(fields: Mapping[str, Any]) -> RopeConfig:
    fields = dict(fields)
    scaling = fields.get("scaling")
    if scaling is not None:
        kind = Llama3Scaling if "low_freq_factor" in scaling else Yarn
        fields["scaling"] = _build(kind, scaling, "rope.scaling")
    return _build(RopeConfig, fields, "rope")


def _build(kind: type[_T], fields: Mapping[str, Any], where: str) -> _T:
    """Makes a dataclass, refusing unknown and missing fields by name."""
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"unknown field {name!r} in {where}",
                f"{kind.__name__} has no such field and would ignore it",
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
            )
    missing = [
        name
        for name, f in known.items()
        if name not in fields and f.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"{where} lacks {', '.join(missing)}",
            "sizes have no defaults",
            "state them in the preset or checkpoint",
        )
    return kind(**fields)
