"""The paged cache: pools of pages as a pytree, and what one step works on.

A pool holds every layer's pages; page 0 belongs to nobody and takes the writes of
padding. Keys are [L, P, K, Z, H] and values [L, P, K, W, Z], so that both products of
attention run along the last axis; latents are [L, P, 1, Z, C + R]. Kernels want keys
and values side by side, [L, P, K, Z, 2 H], and latents [L, P, Z, E], padded to whole
registers of 128 lanes.

A step's tokens are flat: first R decode tokens, one for each of the first R rows, then
C chunks of Q tokens, one for each of the last C rows:

    R = 3, C = 1, Q = 4      tokens  d0 d1 d2 | c0 c1 c2 c3     rows 0 1 2 3

Where guesses are verified each of the first R rows has places for several tokens, its
newest one and the guesses behind it. Rows and tokens that a step does not need are
padding: length 0, position -1. On a mesh that cuts sequences over D devices, tokens and
rows are D such steps of one geometry, end to end, and page numbers count the pages of
the device.

A latent has no heads to cut. Where several devices work on the same sequences, each
holds a segment of every one, and shares of the softmax are merged (layers/segments.py):

    S = 4 devices, J = 3 pages a segment, home 2
    page table   | p0 p1 p2 | p3 p4 p5 | p6 p7 .. | .. .. .. |
    of device        2           3          0          1

So a short sequence lies on its home alone, and homes spread.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import MlaConfig, ModelConfig
from r1jax.sharding import Placement, local_bytes
from r1jax.target import PLAIN, Target
from r1jax.typing import Array, Int

Pools = dict[str, Array]
_LANES = 128
_HEADS = ("pages", "kv_heads")
# The logical axes of a pool's second and third dimensions; the rest stays whole.
_PAGE_AXES = {
    "kv": _HEADS,
    "key": _HEADS,
    "value": _HEADS,
    "latent": ("latent_pages", None),
}


class Geometry(NamedTuple):
    """The static shape of a step.

    Attributes:
      decodes: Decode rows.
      chunks: Chunk rows.
      chunk_tokens: Tokens in each chunk.
      decode_tokens: Tokens in each decode row; those after the first are guesses.
    """

    decodes: int
    chunks: int
    chunk_tokens: int
    decode_tokens: int = 1

    @property
    def rows(self) -> int:
        """Sequences in the step, padding included."""
        return self.decodes + self.chunks

    @property
    def tokens(self) -> int:
        """Tokens in the step, padding included."""
        return self.first_chunk + self.chunks * self.chunk_tokens

    @property
    def first_chunk(self) -> int:
        """Where the chunks' tokens begin."""
        return self.decodes * self.decode_tokens

    @property
    def asked(self) -> int:
        """Tokens whose next one is sampled: all of decode rows, a chunk's last one."""
        return self.first_chunk + self.chunks

    def first_asked(self, row: int) -> int:
        """Returns the place of a row's first token among those asked."""
        if row < self.decodes:
            return row * self.decode_tokens
        return self.first_chunk + row - self.decodes


@flax.struct.dataclass
class Batch:
    """What one step works on.

    Attributes:
      tokens: Token ids, flat (see the module's picture).
      positions: Each token's position in its sequence; -1 for padding.
      page_table: For each row its pages in order; 0 where it has none.
      lengths: For each row the context tokens after this step; 0 for padding.
      homes: For each row the device of its first segment; None is 0 for all.
      geometry: The static shape, on one device.
      target: What the step is compiled for.
    """

    tokens: Int[Array, " T"]
    positions: Int[Array, " T"]
    page_table: Int[Array, "B J"]
    lengths: Int[Array, " B"]
    homes: Int[Array, " B"] | None = None
    geometry: Geometry = flax.struct.field(pytree_node=False, kw_only=True)
    target: Target = flax.struct.field(pytree_node=False, default=PLAIN, kw_only=True)

    @property
    def shards(self) -> int:
        """How many steps of the geometry lie end to end."""
        return len(self.tokens) // self.geometry.tokens

    def token_rows(self) -> Int[Array, " T"]:
        """Returns the row of each token."""
        g = self.geometry
        chunks = jnp.repeat(jnp.arange(g.decodes, g.rows), g.chunk_tokens)
        decodes = jnp.repeat(jnp.arange(g.decodes), g.decode_tokens)
        rows = jnp.concatenate([decodes, chunks])
        firsts = g.rows * jnp.arange(self.shards)
        return (firsts[:, None] + rows[None]).reshape(-1)

    def pick(self, tokens: Array, last: Int[Array, " A"]) -> Array:
        """Returns some tokens, equally many of each shard, out of its own tokens.

        Args:
          tokens: [T, ...].
          last: Which of the flat tokens, as a step asks for them: shard by shard.
        """
        if self.shards == 1:
            return tokens[last]
        apart = tokens.reshape(self.shards, -1, *tokens.shape[1:])
        within = last.reshape(self.shards, -1) % self.geometry.tokens
        return jax.vmap(lambda x, at: x[at])(apart, within).reshape(
            len(last), *tokens.shape[1:]
        )


def pool_shapes(
    config: ModelConfig, page_size: int, kernels: bool = False
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one page of one layer, by pool name."""
    attention = config.attention
    if isinstance(attention, MlaConfig):
        width = attention.latent_dim
        if kernels:
            return {"latent": (page_size, -(-width // _LANES) * _LANES)}
        return {"latent": (1, page_size, width)}
    heads, width = attention.kv_heads, attention.head_dim
    if kernels:
        return {"kv": (heads, page_size, 2 * width)}
    return {"key": (heads, page_size, width), "value": (heads, width, page_size)}


def shares(config: ModelConfig, target: Target) -> tuple[int, int]:
    """Returns into how many parts sequences are cut, and each sequence's segments.

    Only latents have segments: devices that share other sequences hold some heads of
    every page.
    """
    on = target.placement
    if on is None:
        return 1, 1
    shards = on.devices("rows")
    latent = isinstance(config.attention, MlaConfig)
    return shards, on.devices("latent_pages") // shards if latent else 1


def pool_spec(name: str, shape: Sequence[int], on: Placement) -> PartitionSpec:
    """Returns where a pool's pages lie on a mesh."""
    rest = [None] * (len(shape) - 3)
    return on.spec(("layers", *_PAGE_AXES[name], *rest), shape)


def make_pools(
    config: ModelConfig,
    pages: int,
    page_size: int,
    dtype: Any,
    target: Target = PLAIN,
    more_layers: int = 0,
) -> Pools:
    """Allocates zeroed pools of `pages` pages on each device (page 0 included)."""
    shapes = abstract_pools(config, pages, page_size, dtype, target, more_layers)
    return {
        name: jnp.zeros(pool.shape, dtype, device=pool.sharding)
        for name, pool in shapes.items()
    }


def abstract_pools(
    config: ModelConfig,
    pages: int,
    page_size: int,
    dtype: Any,
    target: Target = PLAIN,
    more_layers: int = 0,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of `make_pools`, and where they lie.

    `more_layers` lie behind the model's own: 1 where the prediction layer runs.
    """
    on, made = target.placement, {}
    shards, segments = shares(config, target)
    for name, page in pool_shapes(config, page_size, target.kernels).items():
        shape = (config.layers + more_layers, pages * shards * segments, *page)
        where = NamedSharding(on.mesh, pool_spec(name, shape, on)) if on else None
        made[name] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=where)
    return made


def page_bytes(
    config: ModelConfig,
    page_size: int,
    dtype: Any,
    target: Target = PLAIN,
    more_layers: int = 0,
) -> int:
    """Returns the bytes of one page of all layers on its device."""
    shapes = abstract_pools(config, 1, page_size, dtype, target, more_layers).values()
    return sum(map(local_bytes, shapes))


@flax.struct.dataclass
class Part:
    """The rows of a step that have equally many tokens: its decodes, or its chunks.

    Attributes:
      pools: Every layer's pages.
      layer: The layer that is being computed.
      positions: Of each token, -1 for padding.
      page_table: Of each row.
      start: Where the part's tokens begin in the flat step.
      by_rows: As the target says.
    """

    pools: Pools
    layer: Int[Array, ""]
    positions: Int[Array, "B T"]
    page_table: Int[Array, "B J"]
    start: int = flax.struct.field(pytree_node=False)
    by_rows: bool = flax.struct.field(pytree_node=False)

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return _page_size(self.pools)

    def rows(self, flat: Array) -> Array:
        """Returns this part's tokens of a flat array [T, ...], as [B, T, ...]."""
        rows, tokens = self.positions.shape
        mine = flat[self.start : self.start + rows * tokens]
        return mine.reshape(rows, tokens, *flat.shape[1:])

    def page(self, name: str, number: Int[Array, ""]) -> Array:
        """Returns one page of this layer, [K, ...]."""
        pool = self.pools[name]
        start = (self.layer, number, *[jnp.int32(0)] * (pool.ndim - 2))
        return jax.lax.dynamic_slice(pool, start, (1, 1, *pool.shape[2:]))[0, 0]

    def some(self, name: str, numbers: Int[Array, " I"]) -> Array:
        """Returns some pages of this layer, [I, K, ...]."""
        pool = self.pools[name]
        return pool.at[self.layer, numbers].get(mode="promise_in_bounds")

    def block(self, name: str, index: Int[Array, ""], pages: int) -> Array:
        """Returns `pages` pages of each row's context, [B, J, K, ...]."""
        # A slice past the end would be moved back; page 0 fills the last block.
        missing = -self.page_table.shape[1] % pages
        table = jnp.pad(self.page_table, ((0, 0), (0, missing)))
        columns = jax.lax.dynamic_slice_in_dim(table, index * pages, pages, axis=1)
        return self.pools[name][self.layer, columns]


@flax.struct.dataclass
class Context:
    """The past of a step's sequences, as one layer sees it."""

    pools: Pools
    layer: Int[Array, ""]
    batch: Batch

    def write(self, **entries: Array) -> "Context":
        """Writes each token's entries [T, K, H] into its page, in place."""
        batch, page_size = self.batch, _page_size(self.pools)
        where = jnp.maximum(batch.positions, 0)
        page = batch.page_table[batch.token_rows(), where // page_size]
        page = jnp.where(batch.positions < 0, 0, page)
        at = where % page_size
        pools = dict(self.pools)
        for name, values in entries.items():
            pool = pools[name]
            index = (self.layer, page, slice(None))
            index += (slice(None), at) if name == "value" else (at,)
            pools[name] = pool.at[index].set(values.astype(pool.dtype))
        return Context(pools, self.layer, batch)

    def ending(self, last: Int[Array, " A"]) -> "Context":
        """Returns the same past for the tokens asked alone (see `Geometry.asked`).

        Args:
          last: Which of the flat tokens; any for a chunk of padding.
        """
        b, g = self.batch, self.batch.geometry
        one = Geometry(g.rows, 0, 0)
        asked = one if g.decode_tokens == 1 else g._replace(chunk_tokens=1)
        batch = dataclasses.replace(b, tokens=b.tokens[last], geometry=asked)
        used = b.lengths[batch.token_rows()] > 0
        position = jnp.where(used, b.positions[last], -1)
        batch = dataclasses.replace(batch, positions=position)
        return Context(self.pools, self.layer, batch)

    def specs(self, placement: Placement) -> "Context":
        """Returns where each array lies on a mesh, for a function of one device."""
        b = self.batch
        tokens = placement.spec(("tokens",), b.tokens.shape)
        batch = b.replace(  # type: ignore[attr-defined]
            tokens=tokens,
            positions=tokens,
            page_table=placement.spec(("rows", None), b.page_table.shape),
            lengths=placement.spec(("rows",), b.lengths.shape),
            homes=placement.spec(("rows",), b.lengths.shape),
        )
        pools: Any = {
            name: pool_spec(name, pool.shape, placement)
            for name, pool in self.pools.items()
        }
        layer: Any = placement.spec((), ())
        return Context(pools, layer, batch)

    def parts(self) -> list[Part]:
        """Returns the step's decodes and its chunks, leaving out what is empty."""
        b, g = self.batch, self.batch.geometry
        cuts = [
            (0, 0, g.decodes, g.decode_tokens),
            (g.first_chunk, g.decodes, g.chunks, g.chunk_tokens),
        ]
        return [
            Part(
                self.pools,
                self.layer,
                b.positions[start : start + rows * tokens].reshape(rows, tokens),
                b.page_table[first : first + rows],
                start,
                b.target.by_rows,
            )
            for start, first, rows, tokens in cuts
            if rows
        ]


def _page_size(pools: Pools) -> int:
    pool = pools.get("latent", pools.get("key"))
    assert pool is not None
    return pool.shape[3]


def flat(parts: list[Array]) -> Array:
    """Joins the parts' [B, T, ...] to one flat [T, ...], in the step's order."""
    return jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
