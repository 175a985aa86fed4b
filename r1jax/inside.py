"""What goes on in a model over one whole sequence, for who wants to see it.

It is the plain form (`model.forward`) that is looked at, all layers at once: attention
alone is T squared for each head and layer, so look at sequences of hundreds of tokens.
"""

from typing import NamedTuple

import jax.numpy as jnp

from r1jax import model
from r1jax.config import ModelConfig
from r1jax.layers.notes import KIND
from r1jax.typing import Array, Float, Int, PyTree, typechecked


class Inside(NamedTuple):
    """What L layers, M of them with experts, did with T tokens.

    Attributes:
      residual: The stream of hidden states: embedded, then after each layer.
      shares: By how much each token attends to each; rows of T sum to 1.
      cached: What a cache would hold: a latent with its rotating key (MLA), or all
        heads' keys and values (GQA).
      chosen: The experts that each token went to; None where there are none.
    """

    residual: Float[Array, "L1 T D"]
    shares: Float[Array, "L N T S"]
    cached: Float[Array, "L T CR"]
    chosen: Int[Array, "M T X"] | None


def look(config: ModelConfig, params: PyTree, tokens: Int[Array, " T"]) -> Inside:
    """Runs one whole sequence and keeps what is inside; compile it with `jax.jit`.

    `params` is the tree of docs/weights.md, such as `LLM.params`.
    """
    _, notes = model.through(config, params, tokens, KIND, "choices")
    layers = [notes[group][KIND] for group in model.group_sizes(config)]
    first = params["embed"]["embedding"][tokens][None]
    chosen = None
    if config.moe_layers:
        chosen = notes["moe_layers"]["choices"]["moe"]["router"]["chosen"]
    return Inside(
        jnp.concatenate([first, *(layer["residual"] for layer in layers)]),
        jnp.concatenate([layer["attention"]["shares"] for layer in layers]),
        jnp.concatenate([layer["attention"]["cached"] for layer in layers]),
        chosen,
    )


@typechecked
def lens(
    config: ModelConfig, params: PyTree, residual: Float[Array, "T D"]
) -> Float[Array, "T V"]:
    """Reads hidden states of any depth as if the last layer had left them: logits."""
    return model.logits(params, model.final_norm(config, params, residual))
