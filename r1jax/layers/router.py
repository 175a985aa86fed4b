"""Which experts a token goes to: DeepSeek-V3's noaux_tc (arXiv 2412.19437, 2.1.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import MoeConfig
from r1jax.layers.linear import weight
from r1jax.typing import Array, Float, Int, typechecked

Routes = tuple[Int[Array, "T X"], Float[Array, "T X"]]


@typechecked
def route(
    logits: Float[Array, "T E"], bias: Float[Array, " E"], config: MoeConfig
) -> Routes:
    """Chooses X experts for each token and weighs them, in float32.

    The bias takes part in the choice only. The choice is limited to the
    `groups_per_token` expert groups whose two best experts score highest together;
    experts outside them are out of the running (minus infinity, as in DeepSeek's own
    inference code, where transformers before 5 used 0.0).
    """
    scores = jax.nn.sigmoid(logits.astype(jnp.float32))
    choice = scores + bias[None, :]
    tokens = len(choice)
    grouped = choice.reshape(tokens, config.expert_groups, -1)
    best_two = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(axis=-1)
    _, groups = jax.lax.top_k(best_two, config.groups_per_token)
    allowed = jax.nn.one_hot(groups, config.expert_groups, dtype=jnp.bool_).any(axis=1)
    limited = jnp.where(allowed[:, :, None], grouped, -jnp.inf).reshape(tokens, -1)
    _, chosen = jax.lax.top_k(limited, config.experts_per_token)
    weights = jnp.take_along_axis(scores, chosen, axis=1)
    if config.normalize:
        weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return chosen, weights * config.routed_scale


class Router(nn.Module):
    """Holds the router's kernel and its float32 choice bias."""

    config: MoeConfig
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Routes:
        """Routes [T, D] tokens; the logits are float32 whatever the dtype."""
        axes, e = ("embed", "router"), self.config.experts
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros_init()
        kernel = weight(self, "kernel", init, axes, (self.width, e))
        bias = weight(self, "bias", zeros, axes[1:], (e,))
        wide = (x.astype(jnp.float32), kernel.astype(jnp.float32))
        logits = jnp.einsum("TD,DE->TE", *wide, precision=jax.lax.Precision.HIGHEST)
        chosen, weights = route(logits, bias, self.config)
        # For who asks what was chosen (`model.chosen_experts`); nothing otherwise.
        self.sow("choices", "chosen", chosen, lambda _, new: new, lambda: None)
        scores = jax.nn.sigmoid(logits)
        self.sow("choices", "scores", scores, lambda _, new: new, lambda: None)
        return chosen, weights
