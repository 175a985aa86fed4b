"""What supervised learning minimises, and how the router's bias is balanced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
from r1jax.errors import ConfigError
from r1jax.train.batch import Packed
from r1jax.train.forward import cast, score, score_ahead
from r1jax.typing import Array, PyTree


@dataclass(frozen=True)
class Loss:
    """What is added up.

    Attributes:
      dtype: What is computed in; parameters and their updates stay float32.
      remat: Whether layers are computed again for the gradient, to save memory.
      unroll: Whether layers are compiled one by one; see `forward.score`.
      mtp_weight: Lambda of the multi-token-prediction loss (arXiv 2412.19437, section
        2.2); 0 leaves that layer as it is.
      mtp_weight_later: What it is in a run's last part.
      mtp_later_from: The share of the steps behind which that part begins; 1 for never.
      balance_weight: Alpha of the sequence-wise balance loss (section 2.1.2: 0.0001).
      bias_speed: How far the router's bias moves in a step (section 2.1.2: 0.001).
      steps: Of the run.
      bias_falls_from: The share of the steps behind which that falls evenly, to 0 at
        the end: routes that still change are noise to what is learnt late. 1 for never
        (section 4.2: 0 from 0.966 on).
    """

    dtype: str
    remat: bool
    unroll: bool
    mtp_weight: float
    mtp_weight_later: float
    mtp_later_from: float
    balance_weight: float
    bias_speed: float
    steps: int
    bias_falls_from: float = 1.0

    def __post_init__(self) -> None:
        """Refuses weights that mean nothing, or would not count.

        Raises:
          ConfigError: Names them, with their values.
        """
        for name in ("mtp_weight", "mtp_weight_later", "balance_weight", "bias_speed"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"loss.{name} is {getattr(self, name)}",
                    "below 0 it would drive the model away from what it is to learn",
                    "choose 0 or more",
                )
        if not 0 <= self.bias_falls_from <= 1:
            raise ConfigError(
                f"loss.bias_falls_from is {self.bias_falls_from}",
                "it is a share of the steps",
                "choose it from 0 to 1",
            )
        if self.bias_falls_from < 1 and not self.bias_speed:
            raise ConfigError(
                f"loss.bias_falls_from is {self.bias_falls_from}, bias_speed 0",
                "what does not move cannot become slower",
                "set loss.bias_speed too, or leave both",
            )
        if not 0 < self.mtp_later_from <= 1:
            raise ConfigError(
                f"loss.mtp_later_from is {self.mtp_later_from}",
                "it is a share of the steps",
                "choose it above 0, and at most 1",
            )
        falls = self.mtp_later_from < 1
        if (falls and not self.mtp_weight) or (self.mtp_weight_later and not falls):
            raise ConfigError(
                f"loss.mtp_weight is {self.mtp_weight}, mtp_weight_later "
                f"{self.mtp_weight_later} from {self.mtp_later_from} of the steps on",
                "one of them would be ignored: a later weight needs a first one above "
                "0 and a share of the steps below 1",
                "set all three, or mtp_weight alone",
            )

    def mtp_weight_at(self, step: Array) -> Array:
        """Returns what the prediction layer's loss weighs after so many steps."""
        later = step >= round(self.mtp_later_from * self.steps)
        return jnp.where(later, self.mtp_weight_later, self.mtp_weight)

    def bias_speed_at(self, step: Array) -> Array | float:
        """Returns how far the routers' biases move after so many steps."""
        if self.bias_falls_from == 1:
            return self.bias_speed
        left = (1 - step / self.steps) / (1 - self.bias_falls_from)
        return self.bias_speed * jnp.minimum(left, 1.0)


def part_of_loss(
    config: ModelConfig,
    settings: Loss,
    params: PyTree,
    packed: Packed,
    totals: tuple[Array, Array],
    parts: int,
    step: Array,
) -> tuple[Array, dict[str, Any]]:
    """Returns what one of several parts of a batch adds to its loss.

    Args:
      config: The model.
      settings: What is added up.
      params: In float32.
      packed: The part.
      totals: `target_weights` of the whole batch.
      parts: How many there are.
      step: How many steps were done before.

    Returns:
      The loss, and numbers that add up over the parts.
    """
    narrow = cast(params, settings.dtype)
    scores = score(config, narrow, packed, remat=settings.remat, unroll=settings.unroll)
    weights = packed.weights
    nll = -(scores.logprobs * weights).sum() / totals[0]
    accuracy = (scores.hits * weights).sum() / totals[0]
    loads = {"moe_layers": scores.loads} if scores.loads.size else {}
    numbers = {"loss": nll, "accuracy": accuracy, "loads": loads}
    loss, balance = nll, scores.balance
    if settings.mtp_weight:
        ahead = score_ahead(config, narrow, packed, scores.hidden)
        mtp = -(ahead.logprobs * ahead_weights(packed)).sum() / totals[1]
        loss += settings.mtp_weight_at(step) * mtp
        balance += ahead.balance
        numbers["mtp_loss"], loads["mtp"] = mtp, ahead.loads
    if settings.balance_weight and config.moe:
        loss += settings.balance_weight * balance / parts
        numbers["balance"] = balance / parts
    return loss, numbers


def ahead_weights(packed: Packed) -> Array:
    """Returns the weights of what the prediction layer can predict."""
    return jnp.where(packed.positions > 1, packed.weights, 0.0)


def target_weights(packed: Packed) -> tuple[Array, Array]:
    """Returns the sums of all targets' weights: the model's and one token ahead."""
    sums = packed.weights.sum(), ahead_weights(packed).sum()
    return jnp.maximum(sums[0], 1e-9), jnp.maximum(sums[1], 1e-9)


def balance_bias(
    params: PyTree, loads: Mapping[str, Array], speed: Array | float
) -> PyTree:
    """Moves the routers' biases towards equal loads (arXiv 2412.19437, section 2.1.2).

    An expert with less than the mean load is made likelier, one with more unlikelier,
    all by the same step; outside the gradient.

    Args:
      params: The model's.
      loads: Tokens routed to each expert [L, E], by the group of layers ("moe_layers",
        "mtp"); of a group's first L layers.
      speed: How far a bias moves.
    """
    steps = {
        group: speed * jnp.sign(some.mean(axis=1, keepdims=True) - some)
        for group, some in loads.items()
    }

    def moved(path: Any, leaf: Array) -> Array:
        group, *inner = (k.key for k in path)
        if group not in steps or inner[-3:] != ["moe", "router", "bias"]:
            return leaf
        return leaf.at[: len(steps[group])].add(steps[group])

    return jax.tree_util.tree_map_with_path(moved, params)
