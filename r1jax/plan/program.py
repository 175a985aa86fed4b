"""Compiles the engine's steps ahead of time for a slice, from shapes alone."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from r1jax import cache, model, parameters, sharding
from r1jax.cache import Geometry
from r1jax.config import MlaConfig, ModelConfig
from r1jax.engine.programs import Programs, state_shapes
from r1jax.errors import ConfigError, ShardingError
from r1jax.plan.slices import Slice
from r1jax.quant import Scheme
from r1jax.sharding import Placement
from r1jax.target import Target, target_for
from r1jax.typing import PyTree


@dataclass(frozen=True)
class Setup:
    """A model on a slice: what every step of it shares.

    Attributes:
      config: The model.
      on: The slice.
      target: What steps are compiled for, the mesh with it.
      dtype: Of the plain weights and the cache.
      weights: Shapes of the parameters, placed.
      page_size: Tokens in a page.
      context: Longest context, in tokens.
    """

    config: ModelConfig
    on: Slice
    target: Target
    dtype: Any
    weights: PyTree
    page_size: int
    context: int

    @property
    def shards(self) -> int:
        """Into how many parts sequences are cut."""
        return cache.shares(self.config, self.target)[0]

    @property
    def segments(self) -> int:
        """Over how many devices each sequence's cache is cut."""
        return cache.shares(self.config, self.target)[1]

    @property
    def columns(self) -> int:
        """Pages of a context at its longest, in equal segments of each device."""
        segment = -(-self.context // (self.page_size * self.segments))
        return segment * self.segments

    @property
    def page_step(self) -> int:
        """By how many pages a cache grows: one on each device that holds others."""
        return self.shards * self.segments

    def pools(self, each: int) -> dict[str, Any]:
        """Returns the shapes of a cache of so many pages on each device."""
        made = cache.abstract_pools(
            self.config, each, self.page_size, self.dtype, self.target
        )
        return self.placed(made)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on each device."""
        return sum(map(sharding.local_bytes, jax.tree.leaves(self.weights)))

    def step_bytes(self) -> int:
        """Returns the bytes that `page_step` pages more take on each device."""
        return cache.page_bytes(self.config, self.page_size, self.dtype, self.target)

    def token_bytes(self) -> float:
        """Returns the bytes of cache that a token takes on each device, on average."""
        return self.step_bytes() / (self.page_step * self.page_size)

    def placed(self, shapes: PyTree) -> Any:
        """Says of shapes without a mesh on which device they are."""
        one = SingleDeviceSharding(self.on.devices[0])
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=x.sharding or one
            ),
            shapes,
        )


def make_setup(
    config: ModelConfig,
    on: Slice,
    *,
    strategy: str = "throughput",
    data: int | None = None,
    tensor: int | None = None,
    scheme: Scheme | None = None,
    dtype: str | None = None,
    context: int = 2048,
    page_size: int = 128,
) -> Setup:
    """Arranges a slice and places a model's weights on it.

    Args:
      config: The model.
      on: The slice.
      strategy: A rule set of `sharding.RULES`.
      data: Devices along `data`; by default what `mesh_sizes` picks.
      tensor: Devices along `tensor`; likewise.
      scheme: What is stored in few bits.
      dtype: Of the rest and of the cache; by default float32 on a CPU, else bfloat16.
      context: Longest context, in tokens.
      page_size: Tokens in a page of the cache.

    Raises:
      ConfigError: Sizes do not fit the slice or the model.
      ShardingError: The cache does not divide over the mesh.
    """
    if not 2 <= context <= config.max_positions:
        raise ConfigError(
            f"a context of {context} tokens",
            f"the model was made for 2 to {config.max_positions}",
            f"choose at most {config.max_positions}",
        )
    data, tensor = mesh_sizes(config, on, strategy, data, tensor)
    placement = None
    if on.generation or len(on.devices) > 1:
        mesh = sharding.arrange(on.devices, data, tensor)
        placement = Placement(mesh, strategy)
        on = dataclasses.replace(on, devices=tuple(mesh.devices.flat))
    target = target_for(on.devices[0].device_kind, config, placement)
    plain = jnp.dtype(dtype or ("bfloat16" if on.generation else "float32"))
    weights = _weights(config, target, plain, scheme, on)
    setup = Setup(config, on, target, plain, weights, page_size, context)
    setup.step_bytes()  # refuses a cache that does not divide
    return setup


def mesh_sizes(
    config: ModelConfig, on: Slice, strategy: str, data: int | None, tensor: int | None
) -> tuple[int, int]:
    """Chooses the mesh: how many devices along `data` and along `tensor`.

    Where nothing is said heads are cut over as many devices as their number divides by,
    a latent's over 8 at most if sequences can be cut instead: more would leave a device
    few heads of everyone's sequences.

    Raises:
      ConfigError: They do not make up the slice.
    """
    devices = len(on.devices)
    if tensor is None and data is not None:
        tensor = devices // data
    elif tensor is None and "rows" not in sharding.RULES[strategy]:
        tensor = devices
    elif tensor is None:
        attention = config.attention
        if isinstance(attention, MlaConfig):
            tensor = math.gcd(attention.heads, 8, devices)
        else:
            tensor = math.gcd(attention.kv_heads, devices)
    data = devices // tensor if data is None else data
    if data * tensor != devices:
        raise ConfigError(
            f"a mesh of data {data} x tensor {tensor}",
            f"{on.name} has {devices} devices",
            f"choose sizes whose product is {devices}",
        )
    return data, tensor


def _weights(
    config: ModelConfig, target: Target, dtype: Any, scheme: Scheme | None, on: Slice
) -> PyTree:
    """Returns the shapes of the main model's weights, placed."""
    tree = parameters.abstract(config, dtype, scheme)
    axes = parameters.logical_axes(config, scheme)
    for shelf in (tree, axes):
        shelf.pop("mtp", None)
    if target.placement is None:
        one = SingleDeviceSharding(on.devices[0])
        tree = jax.eval_shape(model.for_cpu, tree) if target.form == "cpu" else tree
        where = jax.tree.map(lambda _: one, tree)
    else:
        mesh, rules = target.placement.mesh, target.placement.rules
        try:
            where = sharding.shardings(tree, axes, mesh, rules)
        except ShardingError as error:
            fix = f"{error.fix}; or another --tensor-parallel-size or --topology"
            raise ConfigError(error.what, error.why, fix) from None
    return jax.tree.map(
        lambda leaf, w: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=w),
        tree,
        where,
    )


def compile_step(setup: Setup, geometry: Geometry, each: int, slots: int) -> Any:
    """Compiles the engine's step as the engine does: weights as the compiler lays them.

    Args:
      setup: The model on its slice.
      geometry: The step, on one shard.
      each: Pages of the cache on each device.
      slots: Sequences that run at once, in the whole slice.

    Raises:
      ConfigError: The compiler refuses the step; with its reason.
    """
    small = state_shapes(setup.config, slots, setup.target.placement)
    state = setup.placed((setup.pools(each), *small))
    programs = Programs(setup.config, setup.target, setup.columns, setup.weights, state)
    try:
        return programs.compile_laid(geometry)
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"a step of {geometry.decodes} decodes and {geometry.chunks} chunks of "
            f"{geometry.chunk_tokens} tokens cannot be compiled for {setup.on.name}",
            _reason(str(error)),
            "choose a larger slice, fewer bits, or a smaller batch or context",
        ) from None


def _reason(message: str) -> str:
    """Returns the telling line of a compiler's message."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "exceed" in line.lower()), lines[0])[:300]
