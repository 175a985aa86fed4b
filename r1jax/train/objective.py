"""What GRPO maximises: advantages within groups, and the loss as a pure function.

arXiv 2402.03300, section 4.1.1, with the choices of R1 (arXiv 2501.12948, section
2.2.1) as defaults; docs/rl.md has the formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from r1jax.errors import ConfigError
from r1jax.typing import Array, Float

_FURTHEST = 20.0  # a log-ratio beyond it would only overflow exp
AGGREGATIONS = ("sequence-mean", "token-mean", "constant-length")
SCALINGS = ("group-std", "none")


@dataclass(frozen=True)
class Objective:
    """The switches of the loss.

    Attributes:
      epsilon: How far below 1 a ratio still counts; R1's 10 bounds nothing below.
      eps_high: How far above 1; None for `epsilon`.
      beta: Weight of the divergence from the reference; 0 needs no reference.
      loss_agg: "sequence-mean" (R1), "token-mean" (DAPO, arXiv 2503.14476) or
        "constant-length" (Dr. GRPO, arXiv 2503.20783).
      scale_rewards: "group-std", or "none" for rewards less their mean alone.
      sequence_ratio: One ratio a sequence, the geometric mean of its tokens' (GSPO,
        arXiv 2507.18071).
    """

    epsilon: float = 10.0
    eps_high: float | None = None
    beta: float = 0.001
    loss_agg: str = "sequence-mean"
    scale_rewards: str = "group-std"
    sequence_ratio: bool = False

    def __post_init__(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          ConfigError: Names the switch, its value and the choices.
        """
        for name, choices in (
            ("loss_agg", AGGREGATIONS),
            ("scale_rewards", SCALINGS),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}",
                    f"it is one of {', '.join(choices)}",
                    "choose one of them, or leave it out",
                )
        high = self.epsilon if self.eps_high is None else self.eps_high
        if not (self.epsilon > 0 and high > 0 and self.beta >= 0):
            raise ConfigError(
                f"epsilon is {self.epsilon}, eps_high {high}, beta {self.beta}",
                "ratios need room about 1, and a divergence is not rewarded",
                "choose epsilon and eps_high above 0, and beta of 0 or more",
            )


def loss(
    logprobs: Float[Array, "R W"],
    old: Float[Array, "R W"],
    reference: Float[Array, "R W"] | None,
    advantages: Float[Array, " R"],
    mask: Float[Array, "R W"],
    scale: Float[Array, " R"],
    how: Objective,
) -> tuple[Array, dict[str, Array]]:
    """Returns the loss of rows of one sequence each, and sums to watch.

    Args:
      logprobs: Of each token under the policy that learns.
      old: Under the policy that sampled them.
      reference: Under the reference; None where `how.beta` is 0.
      advantages: Of each sequence.
      mask: 1 for the answer's tokens, 0 for the prompt's and padding.
      scale: What a token of each row weighs; see `scales`.
      how: The switches.

    Returns:
      The loss, and sums over tokens: "tokens", "kl", "clipped", "difference" of the
      log-probabilities from the old ones, and the "largest" of these.
    """
    change = jnp.clip(logprobs - old, -_FURTHEST, _FURTHEST)
    if how.sequence_ratio:
        length = jnp.maximum(mask.sum(axis=1), 1)
        mean = (mask * change).sum(axis=1) / length
        ratio = jnp.broadcast_to(jnp.exp(mean)[:, None], mask.shape)
    else:
        ratio = jnp.exp(change)
    high = how.epsilon if how.eps_high is None else how.eps_high
    near = jnp.clip(ratio, 1 - how.epsilon, 1 + high)
    worth = advantages[:, None]
    gain = jnp.minimum(ratio * worth, near * worth)
    apart = jnp.abs(logprobs - old) * mask
    sums = {
        "tokens": mask.sum(),
        "clipped": (mask * (near * worth < ratio * worth)).sum(),
        "difference": apart.sum(),
        "largest": apart.max(),
        "kl": jnp.zeros(()),
    }
    if reference is not None:
        back = jnp.clip(reference - logprobs, -_FURTHEST, _FURTHEST)
        kl = jnp.exp(back) - back - 1  # never negative, unbiased: "k3"
        gain = gain - how.beta * kl
        sums["kl"] = (mask * kl).sum()
    return -(scale[:, None] * mask * gain).sum(), sums


def advantages(rewards: Float[np.ndarray, "N G"], how: Objective) -> np.ndarray:
    """Returns each reward less its group's mean, over the group's deviation [N, G]."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if how.scale_rewards == "none":
        return centred
    deviation = rewards.std(axis=1, keepdims=True)
    return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0)


def scales(lengths: Sequence[int], how: Objective, longest: int) -> np.ndarray:
    """Returns what a token of each sequence weighs in a minibatch, float32 [N].

    Args:
      lengths: Tokens of each answer, at least one.
      how: Which mean is taken.
      longest: Most tokens that an answer may have.
    """
    sizes = np.asarray(lengths, np.float32)
    if how.loss_agg == "token-mean":
        return np.full_like(sizes, 1 / sizes.sum())
    each = sizes if how.loss_agg == "sequence-mean" else np.float32(longest)
    return (np.ones_like(sizes) / each / len(sizes)).astype(np.float32)
