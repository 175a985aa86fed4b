"""Compiles the engine's steps ahead of time for a slice, from shapes alone."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, SingleDeviceSharding

from r1jax import cache, model, parameters, sharding
from r1jax.cache import Geometry
from r1jax.config import MlaConfig, ModelConfig
from r1jax.engine import steps
from r1jax.engine.packing import Form
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
    def segments(self) -> int:
        """Over how many devices each sequence's cache is cut."""
        p = self.target.placement
        return math.prod(p.mesh.shape[axis] for axis in p.segment_axes) if p else 1

    @property
    def columns(self) -> int:
        """Pages of a context at its longest, in equal segments of each device."""
        pages = -(-self.context // self.page_size)
        return -(-pages // self.segments) * self.segments

    @property
    def shards(self) -> int:
        """Into how many parts sequences are cut."""
        p = self.target.placement
        return p.devices("rows") if p else 1

    @property
    def page_step(self) -> int:
        """By how many pages a cache grows: one on each device that holds others."""
        p, latent = self.target.placement, isinstance(self.config.attention, MlaConfig)
        return p.devices("latent_pages" if latent else "pages") if p else 1

    def pools(self, pages: int) -> dict[str, Any]:
        """Returns the shapes of a cache of so many pages in the whole slice."""
        target, made = self.target, {}
        each = cache.pool_shapes(self.config, self.page_size, target.kernels)
        for name, page in each.items():
            size = (self.config.layers, pages, *page)
            where = self._place(functools.partial(cache.pool_spec, name, size))
            made[name] = jax.ShapeDtypeStruct(size, self.dtype, sharding=where)
        return made

    def step_bytes(self) -> int:
        """Returns the bytes that `page_step` pages more take on each device."""
        return sum(local_bytes(pool) for pool in self.pools(self.page_step).values())

    def token_bytes(self) -> float:
        """Returns the bytes of cache that a token takes on each device, on average."""
        return self.step_bytes() / (self.page_step * self.page_size)

    def array(
        self, axes: Sequence[str | None], size: Sequence[int], dtype: Any = jnp.int32
    ) -> jax.ShapeDtypeStruct:
        """Returns the shape of one array of a step, placed."""
        where = self._place(lambda p: p.spec(axes, size))
        return jax.ShapeDtypeStruct(tuple(size), dtype, sharding=where)

    def _place(self, spec: Callable[[Placement], Any]) -> Any:
        placement = self.target.placement
        if placement is None:
            return SingleDeviceSharding(self.on.devices[0])
        return NamedSharding(placement.mesh, spec(placement))


def local_bytes(leaf: Any) -> int:
    """Returns the bytes of an array on each device."""
    bits = jax.dtypes.itemsize_bits(leaf.dtype)
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * bits // 8


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


def compile_step(setup: Setup, geometry: Geometry, pages: int, slots: int) -> Any:
    """Compiles the engine's step as the engine does: weights as the compiler lays them.

    Args:
      setup: The model on its slice.
      geometry: The step, on one shard.
      pages: Of the cache, in the whole slice.
      slots: Sequences that run at once, in the whole slice.

    Raises:
      ConfigError: The compiler refuses the step; with its reason.
    """
    form = Form(geometry, setup.columns, setup.shards)
    run = functools.partial(steps.run_step, setup.config, form, setup.target)
    arguments = (setup.weights, setup.pools(pages), *_state(setup, form, slots))
    where = jax.tree.map(lambda x: x.sharding, arguments)
    laid = jax.tree.map(lambda w: Format(Layout.AUTO, w), where[0])
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    jitted = jax.jit(run, in_shardings=(laid, *where[1:]), donate_argnums=(1, 2))
    platform = "tpu" if setup.on.generation else "cpu"
    options = steps.CPU_OPTIONS if setup.target.form == "cpu" else {}
    p = setup.target.placement
    try:
        # Kernels ask the mesh what they are compiled for.
        with jax.set_mesh(p.mesh) if p else jax.default_device(setup.on.devices[0]):
            lowered = jitted.trace(*plain).lower(lowering_platforms=(platform,))
            return lowered.compile(compiler_options=options)
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


def _state(setup: Setup, form: Form, slots: int) -> tuple[Any, ...]:
    """Returns the shapes of a step's arguments behind weights and cache."""
    ints, floats = form.shapes
    table = (slots, setup.config.vocab_size)
    return (
        setup.array((None,), (slots,)),
        {
            "prompt": setup.array(("rows", "vocab"), table, jnp.bool_),
            "answer": setup.array(("rows", "vocab"), table),
        },
        setup.array((None,), ints),
        setup.array((None, None), floats, jnp.float32),
    )
