"""The multi-token-prediction layer (arXiv 2412.19437, section 2.2): one token further.

At position i it joins what the main model knows of tokens 0 .. i with token i + 1, and
predicts token i + 2 by a whole layer with experts, a norm and a head. Its attention
sees what the layer itself made of earlier positions. The embedding comes first in what
is joined, as in DeepSeek's checkpoints; the paper prints the other order.
"""

from typing import Any

import jax.numpy as jnp

from r1jax.cache import Context
from r1jax.config import ModelConfig
from r1jax.layers.block import Block
from r1jax.layers.linear import Projection, project
from r1jax.layers.norm import RmsNorm
from r1jax.layers.packed import Rows
from r1jax.layers.rope import Rotation
from r1jax.typing import Array, Float, Int, PyTree, typechecked


def look_ahead(
    config: ModelConfig,
    params: PyTree,
    hidden: Float[Array, "T D"],
    following: Int[Array, " T"],
    turn: Rotation,
    context: Context | Rows | None,
    last: Array | None = None,
) -> tuple[Array, Context | None]:
    """Runs the layer up to its last norm.

    Args:
      config: The model.
      params: One layer's, of the "mtp" group.
      hidden: The main model's hidden states behind its final norm; or, to look one
        token further still, this function's own result.
      following: The token at the position after each.
      turn: The positions' rotation.
      context: The layer's own past; None where the tokens are one whole sequence;
        `Rows` where they are packed ones.
      last: As in `Block`.

    Returns:
      The layer's state [T, D] (of `last`, [B, D]) for `head`, and the context.
    """
    x = join(config, params, hidden, following)
    block: Any = Block(config, with_experts=True)
    out: tuple[Array, Context | None] = block.apply(
        {"params": params["block"]}, x, turn, context, last
    )
    return out


def join(
    config: ModelConfig,
    params: PyTree,
    hidden: Float[Array, "T D"],
    following: Int[Array, " T"],
) -> Float[Array, "T D"]:
    """Returns what the layer's block begins with; the arguments are `look_ahead`'s."""
    embedded = params["embed"]["embedding"][following]
    both = [
        _norm(config, params["embed_norm"], embedded),
        _norm(config, params["hidden_norm"], hidden),
    ]
    shape = (2 * config.width, config.width)
    projection: Any = Projection(shape, ("embed_pair", "embed"))
    joined = jnp.concatenate(both, axis=-1)
    x: Array = projection.apply({"params": params["projection"]}, joined)
    return x


@typechecked
def head(
    config: ModelConfig, params: PyTree, state: Float[Array, "T D"]
) -> Float[Array, "T V"]:
    """Returns the float32 logits of the token after the following one."""
    normed = _norm(config, params["head_norm"], state)
    return project(normed, params["lm_head"]["kernel"], jnp.float32)


def _norm(config: ModelConfig, params: PyTree, x: Array) -> Array:
    norm: Any = RmsNorm(config.width, config.norm_eps)
    y: Array = norm.apply({"params": params}, x)
    return y
