"""The parameter tree before it has values: shapes, dtypes, logical axes, random values.

docs/weights.md draws the tree. It is the same in memory and on disk.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
from r1jax.layers.block import Block
from r1jax.layers.linear import Projection
from r1jax.layers.norm import RmsNorm
from r1jax.layers.rope import Rotation
from r1jax.model import group_block, group_sizes
from r1jax.quant import Scheme, quantise_tree, quantised_axes
from r1jax.typing import Array, PyTree

# Leaves that stay float32 whatever the rest is: rounding them changes expert choice.
ALWAYS_FLOAT32 = ("router", "bias")


def init(config: ModelConfig, key: Array, dtype: Any = jnp.float32) -> PyTree:
    """Makes random parameters: kernels of unit gain, norms of one, biases of zero."""
    return jax.tree.map(lambda x: x, nn.unbox(_boxed(config, key, dtype)))


def abstract(
    config: ModelConfig, dtype: Any = jnp.float32, scheme: Scheme | None = None
) -> PyTree:
    """Returns the tree of `jax.ShapeDtypeStruct`, allocating nothing.

    Args:
      config: The model.
      dtype: Of the plain leaves, but for those that are always float32.
      scheme: What is stored in few bits: `QArray`s of shapes at those leaves.
    """

    def make() -> PyTree:
        return quantise_tree(init(config, jax.random.key(0), dtype), scheme)

    return jax.eval_shape(make)


def logical_axes(config: ModelConfig, scheme: Scheme | None = None) -> PyTree:
    """Returns the tree with a tuple of logical axis names at each leaf.

    Where a scheme stores a leaf in few bits it is a `QArray` of two such tuples.
    """
    boxed = jax.eval_shape(lambda: _boxed(config, jax.random.key(0), jnp.float32))
    boxes = jax.tree.leaves(boxed, is_leaf=_is_box)
    assert all(_is_box(box) for box in boxes)
    axes = jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=_is_box)
    return quantised_axes(axes, scheme)


def count(config: ModelConfig) -> int:
    """Returns the number of parameters of the main model (without the MTP layers)."""
    tree = {k: v for k, v in abstract(config).items() if k != "mtp"}
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def keeps_float32(path: tuple[str, ...]) -> bool:
    """Tells whether the leaf at this path is float32 in every dtype."""
    return path[-2:] == ALWAYS_FLOAT32


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _boxed(config: ModelConfig, key: Array, dtype: Any) -> PyTree:
    keys = iter(jax.random.split(key, 5))
    params = {
        **_words(config, next(keys)),
        "final_norm": _init(RmsNorm(config.width, config.norm_eps), next(keys)),
    }
    if config.tied_head:
        del params["lm_head"]
    for group, size in group_sizes(config).items():
        params[group] = _stack(config, group_block(config, group), next(keys), size)
    if config.mtp_layers:
        params["mtp"] = _mtp(config, next(keys))

    def cast(path: Any, leaf: Array) -> Array:
        names = tuple(k.key for k in path if isinstance(k, jax.tree_util.DictKey))
        return leaf if keeps_float32(names) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def _words(config: ModelConfig, key: Array) -> dict[str, PyTree]:
    """The embedding and the output head."""
    shape, axes = (config.vocab_size, config.width), ("vocab", "embed")
    normal = nn.initializers.normal(config.width**-0.5)
    embed, head = jax.random.split(key)
    table = nn.with_logical_partitioning(normal, axes)(embed, shape)
    kernel = nn.with_logical_partitioning(normal, axes[::-1])(head, shape[::-1])
    return {"embed": {"embedding": table}, "lm_head": {"kernel": kernel}}


def _init(module: nn.Module, key: Array, *more: Any, width: int = 0) -> PyTree:
    width = width or getattr(module, "width", 0)
    return module.init(key, jnp.zeros((1, width)), *more)["params"]


def _block(config: ModelConfig, block: Block, key: Array) -> PyTree:
    shape = (1, config.attention.rotating_dim // 2)
    still: Rotation = (jnp.ones(shape), jnp.zeros(shape))
    return _init(block, key, still, None, width=config.width)


def _stack(config: ModelConfig, block: Block, key: Array, layers: int) -> PyTree:
    keys = jax.random.split(key, layers)
    stacked = jax.vmap(lambda k: _block(config, block, k))(keys)
    return _named(stacked)


def _named(stacked: PyTree) -> PyTree:
    """Names the leading axis that stacking has added."""
    return nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: "layers"})


def _mtp(config: ModelConfig, key: Array) -> PyTree:
    """The multi-token-prediction layers (arXiv 2412.19437, section 2.2), stacked."""
    norm = RmsNorm(config.width, config.norm_eps)
    shape = (2 * config.width, config.width)
    projection = Projection(shape, ("embed_pair", "embed"))

    def one(key: Array) -> PyTree:
        keys = jax.random.split(key, 3)
        return {
            **_words(config, keys[0]),
            "embed_norm": _init(norm, key),
            "hidden_norm": _init(norm, key),
            "head_norm": _init(norm, key),
            "projection": _init(projection, keys[1], width=shape[0]),
            "block": _block(config, group_block(config, "moe_layers"), keys[2]),
        }

    return _named(jax.vmap(one)(jax.random.split(key, config.mtp_layers)))
