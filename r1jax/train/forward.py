"""The model's differentiable form over packed rows: log-probabilities of every token.

The layers are those that serve. They see the rows as one flat axis of tokens, and
`Rows` keeps sequences apart. Equal to `model.forward` on each sequence alone.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax import model, parameters
from r1jax.config import ModelConfig
from r1jax.layers import mtp
from r1jax.layers.block import Block
from r1jax.layers.norm import RmsNorm
from r1jax.layers.packed import Rows
from r1jax.layers.rope import Rotation, rotation
from r1jax.train.batch import Packed
from r1jax.typing import Array, Bool, Float, PyTree

BLOCK = 2**22  # logits that stand at once, float32: 16 MB


@flax.struct.dataclass
class Scores:
    """What the model makes of a batch.

    Attributes:
      logprobs: Of each token given those before it in its sequence, float32 [B, S]; 0
        for first tokens and padding.
      hits: 1 where the token is also the likeliest, else 0.
      hidden: Normed hidden states [B, S, D].
      loads: Tokens routed to each expert, float32 [MoE layers, E] (none: [0, 0]).
      balance: The sequence-wise balance loss (arXiv 2412.19437, eq. 17), alpha left
        out, summed over layers; a row counts as one sequence.
    """

    logprobs: Float[Array, "B S"]
    hits: Float[Array, "B S"]
    hidden: Float[Array, "B S D"]
    loads: Float[Array, "L E"]
    balance: Float[Array, ""]


@flax.struct.dataclass
class Ahead:
    """What the prediction layer makes of a batch.

    Attributes:
      logprobs: Of each token from two before it, float32 [B, S]; 0 for a sequence's
        first two tokens and padding.
      loads: Tokens routed to each expert, float32 [1, E]. A sequence's last token,
        behind which there is nothing to look ahead from, is not counted.
      balance: As in `Scores`, of this layer.
    """

    logprobs: Float[Array, "B S"]
    loads: Float[Array, "1 E"]
    balance: Float[Array, ""]


def score(
    config: ModelConfig,
    params: PyTree,
    packed: Packed,
    *,
    remat: bool = False,
    unroll: bool = True,
) -> Scores:
    """Runs the model over a batch.

    Args:
      config: The model.
      params: Its plain stacked parameters, in the dtype that is computed in.
      packed: The batch.
      remat: Whether each layer is computed again for the gradient, to save memory.
      unroll: Whether layers are compiled one by one (a step is faster on a CPU, and
        compiling takes longer) or as one scanned loop.
    """
    packed = jax.tree.map(jnp.asarray, packed)
    x = params["embed"]["embedding"][packed.tokens.reshape(-1)]
    turn, rows = _turn(config, packed), Rows(packed.segments)
    real = packed.segments > 0
    loads, balance = jnp.zeros((0, 0)), jnp.zeros(())
    for group in model.group_sizes(config):
        block = model.group_block(config, group)

        def layer(x: Array, p: PyTree, block: Any = block) -> tuple[Array, PyTree]:
            out: Any = block.apply({"params": p}, x, turn, rows, mutable=["choices"])
            return out[0][0], _tally(config, out[1].get("choices", {}), real)

        step = jax.checkpoint(layer) if remat else layer
        x, tallies = jax.lax.scan(step, x, params[group], unroll=unroll)
        if tallies is not None:
            loads, balance = tallies[0], tallies[1].sum()
    hidden = _norm(config, params["final_norm"], x)
    head = params.get("lm_head")
    kernel = head["kernel"] if head else params["embed"]["embedding"].T
    targets = jnp.roll(packed.tokens, -1, axis=1)
    following = token_logprobs(hidden, kernel, targets.reshape(-1))
    predicted = real & (packed.positions > 0)
    logprobs, hits = (
        jnp.where(predicted, jnp.roll(f.reshape(predicted.shape), 1, axis=1), 0.0)
        for f in following
    )
    shaped = hidden.reshape(*predicted.shape, -1)
    return Scores(logprobs, hits, shaped, loads, balance)


def score_ahead(
    config: ModelConfig, params: PyTree, packed: Packed, hidden: Float[Array, "B S D"]
) -> Ahead:
    """Runs the prediction layer over a batch.

    The multi-token-prediction layer of arXiv 2412.19437, section 2.2; equal to
    `model.mtp_forward` on each sequence alone.

    Args:
      config: The model.
      params: As in `score`.
      packed: The batch.
      hidden: The model's normed hidden states of it.
    """
    packed = jax.tree.map(jnp.asarray, packed)
    layer = jax.tree.map(lambda a: a[0], params["mtp"])
    following = jnp.roll(packed.tokens, -1, axis=1).reshape(-1)
    x = mtp.join(config, layer, hidden.reshape(following.size, -1), following)
    block: Any = Block(config, with_experts=True)
    turn, rows = _turn(config, packed), Rows(packed.segments)
    out = block.apply({"params": layer["block"]}, x, turn, rows, mutable=["choices"])
    follows = jnp.roll(packed.positions, -1, axis=1) == packed.positions + 1
    loads, balance = _tally(config, out[1]["choices"], follows)
    normed = _norm(config, layer["head_norm"], out[0][0])
    targets = jnp.roll(packed.tokens, -2, axis=1).reshape(-1)
    ahead, _ = token_logprobs(normed, layer["lm_head"]["kernel"], targets)
    ahead = jnp.roll(ahead.reshape(packed.tokens.shape), 2, axis=1)
    predicted = (packed.segments > 0) & (packed.positions > 1)
    return Ahead(jnp.where(predicted, ahead, 0.0), loads[None], balance)


def token_logprobs(
    hidden: Float[Array, "T D"], kernel: Float[Array, "D V"], targets: Array
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """Returns log softmax(hidden kernel)[target], and 1 where no token is likelier.

    Float32, by blocks of tokens: no more than `BLOCK` logits stand at once, and
    gradients compute a block's again.
    """

    def one(part: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, wanted = part
        logits = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32)
        chosen = jnp.take_along_axis(logits, wanted[:, None], axis=1)[:, 0]
        hits = jax.lax.stop_gradient(chosen >= logits.max(axis=1))
        return chosen - jax.nn.logsumexp(logits, axis=1), hits.astype(jnp.float32)

    tokens, vocab = len(hidden), kernel.shape[1]
    blocks = -(-tokens * vocab // BLOCK)
    if blocks <= 1:
        return one((hidden, targets))
    size = -(-tokens // blocks)
    spare = size * blocks - tokens
    rows = jnp.pad(hidden, ((0, spare), (0, 0))).reshape(blocks, size, -1)
    wanted = jnp.pad(targets, (0, spare)).reshape(blocks, size)
    found = jax.lax.map(jax.checkpoint(one), (rows, wanted))
    return found[0].reshape(-1)[:tokens], found[1].reshape(-1)[:tokens]


def cast(params: PyTree, dtype: Any) -> PyTree:
    """Returns parameters to compute with; some stay float32 in every dtype."""

    def narrow(path: Any, leaf: Array) -> Array:
        names = tuple(k.key for k in path)
        return leaf if parameters.keeps_float32(names) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(narrow, params)


def _turn(config: ModelConfig, packed: Packed) -> Rotation:
    attention = config.attention
    # Looked up: XLA's CPU backend would compute every angle again for every head.
    with jax.ensure_compile_time_eval():
        every = jnp.arange(packed.positions.shape[1])
        tables = rotation(attention.rope, attention.rotating_dim, every)
    cos, sin = (table[packed.positions.reshape(-1)] for table in tables)
    return cos, sin


def _tally(config: ModelConfig, choices: PyTree, counts: Bool[Array, "B S"]) -> Any:
    """Returns a layer's loads [E] and its balance loss; None without experts.

    Only tokens that `counts` marks are counted.
    """
    if "moe" not in choices:
        return None
    assert config.moe is not None
    experts, per_token = config.moe.experts, config.moe.experts_per_token
    router, shape = choices["moe"]["router"], counts.shape
    real = counts.astype(jnp.float32)
    hits = jax.nn.one_hot(router["chosen"], experts).sum(axis=1)
    hits = hits.reshape(*shape, experts) * real[..., None]
    shares = router["scores"] / router["scores"].sum(axis=1, keepdims=True)
    shares = shares.reshape(*shape, experts) * real[..., None]
    length = jnp.maximum(real.sum(axis=1), 1)[:, None]
    often = hits.sum(axis=1) * experts / (per_token * length)
    likely = shares.sum(axis=1) / length
    return hits.sum(axis=(0, 1)), (often * likely).sum(axis=1).mean()


def _norm(config: ModelConfig, params: PyTree, x: Array) -> Array:
    norm: Any = RmsNorm(config.width, config.norm_eps)
    y: Array = norm.apply({"params": params}, x)
    return y
