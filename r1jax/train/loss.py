"""What supervised learning minimises, and how the router's bias is balanced."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
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
        2.2: 0.3, later 0.1); 0 leaves that layer as it is.
      balance_weight: Alpha of the sequence-wise balance loss (section 2.1.2: 0.0001).
      bias_speed: How far the router's bias moves in a step (section 2.1.2: 0.001).
    """

    dtype: str
    remat: bool
    unroll: bool
    mtp_weight: float
    balance_weight: float
    bias_speed: float


def part_of_loss(
    config: ModelConfig,
    settings: Loss,
    params: PyTree,
    packed: Packed,
    totals: tuple[Array, Array],
    parts: int,
) -> tuple[Array, dict[str, Any]]:
    """Returns what one of several parts of a batch adds to its loss.

    Args:
      config: The model.
      settings: What is added up.
      params: In float32.
      packed: The part.
      totals: `target_weights` of the whole batch.
      parts: How many there are.

    Returns:
      The loss, and numbers that add up over the parts.
    """
    narrow = cast(params, settings.dtype)
    scores = score(config, narrow, packed, remat=settings.remat, unroll=settings.unroll)
    weights = packed.weights
    nll = -(scores.logprobs * weights).sum() / totals[0]
    accuracy = (scores.hits * weights).sum() / totals[0]
    numbers = {"loss": nll, "accuracy": accuracy, "loads": scores.loads}
    loss = nll
    if settings.balance_weight and config.moe:
        loss += settings.balance_weight * scores.balance / parts
        numbers["balance"] = scores.balance / parts
    if settings.mtp_weight:
        ahead = score_ahead(config, narrow, packed, scores.hidden)
        mtp = -(ahead * ahead_weights(packed)).sum() / totals[1]
        loss += settings.mtp_weight * mtp
        numbers["mtp_loss"] = mtp
    return loss, numbers


def ahead_weights(packed: Packed) -> Array:
    """Returns the weights of what the prediction layer can predict."""
    return jnp.where(packed.positions > 1, packed.weights, 0.0)


def target_weights(packed: Packed) -> tuple[Array, Array]:
    """Returns the sums of all targets' weights: the model's and one token ahead."""
    sums = packed.weights.sum(), ahead_weights(packed).sum()
    return jnp.maximum(sums[0], 1e-9), jnp.maximum(sums[1], 1e-9)


def balance_bias(params: PyTree, loads: Array, speed: float) -> PyTree:
    """Moves the routers' biases towards equal loads (arXiv 2412.19437, section 2.1.2).

    An expert with less than the mean load is made likelier, one with more unlikelier,
    all by the same step; outside the gradient.
    """
    if not loads.size or not speed:
        return params
    step = speed * jnp.sign(loads.mean(axis=1, keepdims=True) - loads)

    def moved(path: Any, leaf: Array) -> Array:
        names = tuple(k.key for k in path)
        here = names == ("moe_layers", "moe", "router", "bias")
        return leaf + step if here else leaf

    return jax.tree_util.tree_map_with_path(moved, params)
