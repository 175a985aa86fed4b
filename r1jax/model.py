"""The model: tokens and cache in, hidden states and cache out.

Parameters are a plain pytree (the tree is drawn in docs/weights.md). Layers of a kind
are stacked along a leading axis and scanned, so that compile time does not grow with
depth; the pools ride in the scan's carry and are updated in place.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import quant
from r1jax.cache import Batch, Context, Pools
from r1jax.config import ModelConfig
from r1jax.layers import mtp
from r1jax.layers.block import Block
from r1jax.layers.linear import Stacked, Turned, project, turn, turn_back
from r1jax.layers.norm import RmsNorm
from r1jax.layers.rope import Rotation, rotation
from r1jax.quant import QArray
from r1jax.target import Target
from r1jax.typing import Array, Float, Int, PyTree, typechecked

GROUPS = ("dense_layers", "moe_layers")
_STACKS = (*GROUPS, "mtp")


def group_sizes(config: ModelConfig) -> dict[str, int]:
    """Returns how many layers each group of equal layers has, empty groups left out."""
    sizes = {"dense_layers": config.dense_layers, "moe_layers": config.moe_layers}
    return {name: size for name, size in sizes.items() if size}


def group_block(config: ModelConfig, group: str) -> Block:
    """Returns the module that computes one layer of a group."""
    return Block(config, with_experts=group == "moe_layers")


def _turn(config: ModelConfig, positions: Array) -> Rotation:
    attention = config.attention
    return rotation(attention.rope, attention.rotating_dim, positions)


@typechecked
def forward(
    config: ModelConfig, params: PyTree, tokens: Int[Array, " T"]
) -> Float[Array, "T D"]:
    """Runs one whole sequence without a cache; returns normed hidden states.

    This is the plain form that every cached and batched one must equal. Map over it
    with `jax.vmap` for a batch.
    """
    return final_norm(config, params, through(config, params, tokens)[0])


@typechecked
def chosen_experts(
    config: ModelConfig, params: PyTree, tokens: Int[Array, " T"]
) -> Int[Array, "L T X"]:
    """Runs one whole sequence; returns what the routers of the MoE layers chose."""
    noted = through(config, params, tokens, "choices")[1]
    return noted["moe_layers"]["choices"]["moe"]["router"]["chosen"]


def through(
    config: ModelConfig, params: PyTree, tokens: Array, *kinds: str
) -> tuple[Array, dict[str, PyTree]]:
    """Runs one whole sequence; returns hidden states before the last norm, and notes.

    Notes are what a group's layers tell of themselves: "choices" or "inside".
    """
    x = params["embed"]["embedding"][tokens]
    turn = _turn(config, jnp.arange(len(tokens)))
    found = {}
    for group in group_sizes(config):
        block = group_block(config, group)

        def layer(x: Array, p: PyTree, block: Block = block) -> tuple[Array, PyTree]:
            out: Any = block.apply({"params": p}, x, turn, None, mutable=list(kinds))
            return out[0][0], out[1]

        x, found[group] = _over_layers(layer, x, params[group])
    return x, found


@typechecked
def step(
    config: ModelConfig,
    params: PyTree,
    pools: Pools,
    batch: Batch,
    last: Int[Array, " B"] | None = None,
) -> tuple[Float[Array, "T D"], Pools]:
    """Runs one ragged step over the paged cache.

    Args:
      config: The model.
      params: Its parameters.
      pools: The cache; donate it, it is updated in place.
      batch: The step's tokens, pages and lengths.
      last: The one flat token of each row whose hidden state is wanted. Where layers
        lie apart (`for_cpu`) the last one then computes nothing else but the cache.

    Returns:
      Normed hidden states of every token, or of each row's one, and the pools.
    """
    x = params["embed"]["embedding"][batch.tokens]
    turn = _turn(config, jnp.maximum(batch.positions, 0))
    first = 0
    for group, size in group_sizes(config).items():
        block = group_block(config, group)
        sliced, whole = params[group], None
        if batch.target.kernels:
            sliced, whole = _apart(params[group])

        def layer(
            carry: tuple[Array, Pools, Array],
            p: PyTree,
            last: Array | None = None,
            block: Block = block,
            first: int = first,
            whole: PyTree = whole,
        ) -> tuple[tuple[Array, Pools, Array], None]:
            x, pools, index = carry
            if whole is not None:
                p = _together(p, whole, index - first, batch.target)
            context = Context(pools, index, batch)
            out: Any = block.apply({"params": p}, x, turn, context, last)
            return (out[0], out[1].pools, index + 1), None

        carry = (x, pools, jnp.int32(first))
        first += size
        if last is not None and first == config.layers and isinstance(sliced, tuple):
            carry, _ = _over_layers(layer, carry, sliced[:-1])
            (x, pools, _), _ = layer(carry, sliced[-1], last)
            return final_norm(config, params, x), pools
        (x, pools, _), _ = _over_layers(layer, carry, sliced)
    x = x if last is None else batch.pick(x, last)
    return final_norm(config, params, x), pools


@typechecked
def mtp_forward(
    config: ModelConfig, params: PyTree, tokens: Int[Array, " T"]
) -> Float[Array, "S V"]:
    """Runs one whole sequence and the prediction layer; returns its logits [T - 1, V].

    Row i sees the tokens up to i + 1 and predicts token i + 2. This is the plain form
    that `mtp_step` must equal.
    """
    hidden = forward(config, params, tokens)[:-1]
    layer, turn = _mtp_layer(params["mtp"]), _turn(config, jnp.arange(len(hidden)))
    state, _ = mtp.look_ahead(config, layer, hidden, tokens[1:], turn, None)
    return mtp.head(config, layer, state)


def mtp_step(
    config: ModelConfig,
    params: PyTree,
    pools: Pools,
    batch: Batch,
    hidden: Float[Array, "T D"],
    following: Int[Array, " T"],
    last: Int[Array, " A"] | None = None,
) -> tuple[Array, Pools]:
    """Runs the prediction layer over a step's tokens, after `step`.

    Args:
      config: The model.
      params: Its parameters, with "mtp".
      pools: The cache, with one layer more than the model.
      batch: The step.
      hidden: What `step` has returned for all its tokens.
      following: The token at the position after each.
      last: Which tokens' states are wanted, equally many of each shard.

    Returns:
      The layer's states [T, D] (of `last`), for `mtp_logits`, and the pools.
    """
    stack = params["mtp"]
    if batch.target.kernels:
        sliced, whole = _apart(stack)
        layer = _mtp_layer(sliced)
        layer = _together(layer, whole, jnp.int32(0), batch.target)
    else:
        layer = _mtp_layer(stack)
    turn = _turn(config, jnp.maximum(batch.positions, 0))
    context = Context(pools, jnp.int32(config.layers), batch)
    early = last if isinstance(stack, tuple) else None
    state, after = mtp.look_ahead(
        config, layer, hidden, following, turn, context, early
    )
    assert after is not None
    if last is not None and early is None:
        state = batch.pick(state, last)
    return state, after.pools


def mtp_logits(
    config: ModelConfig, params: PyTree, state: Float[Array, "T D"]
) -> Float[Array, "T V"]:
    """Returns the prediction layer's float32 logits of its states."""
    return mtp.head(config, _mtp_layer(params["mtp"]), state)


def _mtp_layer(stack: PyTree) -> PyTree:
    """Returns the one layer: checkpoints have no more, and guesses run it again."""
    return stack[0] if isinstance(stack, tuple) else jax.tree.map(lambda a: a[0], stack)


def _over_layers(layer: Any, carry: Any, stack: PyTree) -> tuple[Any, PyTree]:
    """Scans a stacked group, or walks one that `for_cpu` has taken apart."""
    if isinstance(stack, tuple):
        layer = jax.jit(layer)  # traced once for all the layers; XLA inlines it
        each = []
        for p in stack:
            carry, more = layer(carry, p)
            each.append(more)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) if each else ()
        return carry, stacked
    return jax.lax.scan(layer, carry, stack)


def _apart(stack: PyTree) -> tuple[PyTree, PyTree]:
    """Parts what the scan slices by layer from what kernels read out of the stack.

    Each part has None in the other's places.
    """

    def whole(path: Any, leaf: Any) -> bool:
        return isinstance(leaf, QArray) or path[-2].key == "experts"

    parts = [
        jax.tree_util.tree_map_with_path(
            lambda path, leaf, want=want: leaf if whole(path, leaf) == want else None,
            stack,
            is_leaf=_is_quantised,
        )
        for want in (False, True)
    ]
    return parts[0], parts[1]


def _together(layer: PyTree, whole: PyTree, index: Array, target: Target) -> PyTree:
    """Undoes `_apart` for one layer."""

    def join(sliced: Any, stack: Any) -> Any:
        return sliced if stack is None else Stacked(stack, index, target)

    return jax.tree.map(join, layer, whole, is_leaf=lambda leaf: leaf is None)


def for_cpu(params: PyTree) -> PyTree:
    """Rearranges parameters for fast steps on a CPU; the model takes them as they are.

    XLA's CPU backend copies each layer's slice out of a scanned stack before using
    it, which doubles the memory traffic of a decode step, so groups become tuples of
    layers, which the model walks one by one. And kernels are `Turned`. Values move
    one layer at a time; the originals can be freed as it goes.
    """

    def turned(path: Any, leaf: Any) -> Any:
        names = tuple(k.key for k in path)
        if isinstance(leaf, QArray):
            stacked = int(names[-2] == "experts")
            few = turn(leaf, quant.summed_axis(names), stacked)
            return Turned(jax.tree.map(jnp.asarray, few))
        if names[-2:] == ("router", "kernel"):
            return jnp.asarray(leaf)
        if names[-1] == "kernel":
            rows = math.prod(leaf.shape[: quant.inputs_of(names[-2])])
            return Turned(jnp.asarray(leaf.reshape(rows, -1).T))
        if names[-2] == "experts":
            flat = leaf.reshape(*leaf.shape[:2], -1)
            return Turned(jnp.asarray(jnp.swapaxes(flat, 1, 2)))
        return jnp.asarray(leaf)

    others = {name: leaf for name, leaf in params.items() if name not in _STACKS}
    arranged = jax.tree.map(jnp.asarray, others)
    for group, size in ((g, _layers(params[g])) for g in _STACKS if g in params):
        arranged[group] = tuple(
            jax.tree_util.tree_map_with_path(
                turned,
                jax.tree.map(lambda leaf, i=i: leaf[i], params[group]),
                is_leaf=_is_quantised,
            )
            for i in range(size)
        )
    head = params.get("lm_head")
    table = head["kernel"].T if head else params["embed"]["embedding"]
    arranged["lm_head"] = {"kernel": Turned(jnp.asarray(table))}
    return arranged


def from_cpu(arranged: PyTree, like: PyTree) -> PyTree:
    """Undoes `for_cpu`; `like` has the shape of every leaf (`parameters.abstract`)."""

    def back(path: Any, shape: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Turned):
            return jax.tree.map(jnp.asarray, leaf)
        if isinstance(leaf.array, QArray):
            names = tuple(k.key for k in path)
            return turn_back(leaf.array, quant.summed_axis(names), shape)
        return jnp.swapaxes(leaf.array, -1, -2).reshape(shape.shape)

    def mapped(shapes: PyTree, tree: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            back, shapes, tree, is_leaf=_is_quantised
        )

    params = {}
    for name in like:
        if name in arranged and name not in _STACKS:
            params[name] = mapped(like[name], arranged[name])
    for group in _STACKS:
        if group in arranged:
            one = jax.tree.map(_without_layers, like[group])
            layers = [mapped(one, p) for p in arranged[group]]
            params[group] = jax.tree.map(lambda *rows: jnp.stack(rows), *layers)
    return params


def _without_layers(shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)


def _is_quantised(leaf: Any) -> bool:
    return isinstance(leaf, QArray)


def _layers(stack: PyTree) -> int:
    return len(jax.tree.leaves(stack)[0])


def final_norm(config: ModelConfig, params: PyTree, x: Array) -> Array:
    """Normalises the last layer's output, for `logits`."""
    norm = RmsNorm(config.width, config.norm_eps)
    y: Any = norm.apply({"params": params["final_norm"]}, x)
    return y


@typechecked
def logits(params: PyTree, hidden: Float[Array, "T D"]) -> Float[Array, "T V"]:
    """Returns float32 logits of normed hidden states; a tied head has no own leaf."""
    head = params.get("lm_head")
    kernel = head["kernel"] if head else params["embed"]["embedding"].T
    return project(hidden, kernel, jnp.float32)
