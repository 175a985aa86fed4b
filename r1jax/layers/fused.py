"""Attention by kernels, which write the paged cache on the way.

Few tokens a sequence go through the paged kernels (`decode`, `mixed`). A long chunk is
written first, page by page; then its keys and values are made whole, a piece of context
at a time, for the kernel of long chunks, and the pieces' shares of the softmax merged.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.cache import Batch, Context, Geometry
from r1jax.layers import attention, segments
from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import Backend
from r1jax.pallas.flash_prefill import flash_prefill
from r1jax.pallas.paged import Pool
from r1jax.typing import Array

# Keys of a piece of context: as many as the chunk has queries, or this.
_PIECE = 512
_LONG = 256
LANES = 128  # of a register


class Whole(NamedTuple):
    """Some context as the kernel of long chunks takes it: keys, values, shared keys."""

    k: Array  # [K, S, H]
    v: Array  # [K, W, S]
    k_rope: Array | None = None  # [S, R]


# From entries in the order of their tokens, [S, K, E] or [S, E].
Read = Callable[[Array], Whole]


def is_long(geometry: Geometry) -> bool:
    """Tells whether a step's chunks are worth the kernel of long ones.

    It takes queries in registers' full lanes. Shorter chunks ride with the decodes.
    """
    tokens = geometry.chunk_tokens
    return geometry.chunks > 0 and tokens >= _LONG and tokens % LANES == 0


def on_each_device(
    function: Callable[..., tuple[Array, Context]],
    context: Context,
    arrays: Sequence[Array],
    axes: Sequence[Sequence[str | None]],
) -> tuple[Array, Context]:
    """Runs a function of the context and some arrays on every device's part of them.

    Args:
      function: From its arguments to mixed values [T, N, W] and the context.
      context: The past.
      arrays: More arguments.
      axes: The logical axes of each.
    """
    placement = context.batch.target.placement
    if placement is None:
        return function(context, *arrays)
    where = context.specs(placement)
    specs = [placement.spec(a, x.shape) for a, x in zip(axes, arrays, strict=True)]
    heads = placement.mesh_axes("heads") or None
    mixed = jax.sharding.PartitionSpec(*where.batch.tokens, heads)
    run = placement.on_each(function, (where, *specs), (mixed, where))
    return run(context, *arrays)


def attend(
    context: Context, q: Array, new: Array, *, scale: float, value_width: int = 0
) -> tuple[Array, Context]:
    """Writes the step's entries and attends from each token to those not after it.

    Args:
      context: The past, of one device.
      q: Queries [T, N, H]; absorbed ones for a latent.
      new: Entries [T, K, 2 H], or latents [T, E].
      scale: Multiplies the scores.
      value_width: Of a latent, the lanes that are the value.
    """
    batch, (name, pool) = context.batch, next(iter(context.pools.items()))
    kernel: Any = mla_attention if name == "latent" else gqa_attention
    options: dict[str, Any] = {"scale": scale, "backend": batch.target.backend}
    table, heads = batch.page_table, q
    axes = segments.axes_of(batch) if name == "latent" else ()
    if name == "latent":
        options["value_width"] = value_width
    if axes:
        table, offsets = segments.own_segment(batch, axes, pool.shape[-2])
        options |= {"offsets": offsets, "partial": True}
        heads = segments.gather_heads(q, axes)
    arguments = (heads, new, Pool(pool), context.layer, table, batch.lengths)
    if batch.geometry.chunks or batch.geometry.decode_tokens > 1:
        mixed, after = kernel.mixed(*arguments, *_owned(batch), **options)
    else:
        mixed, after = kernel.decode(*arguments, **options)
    if axes:
        mixed = segments.merge(mixed, axes, q.dtype)
    return mixed, dataclasses.replace(context, pools={name: after.values})


def split(
    context: Context,
    decode: Callable[[Context, slice], tuple[Array, Context]],
    chunk: Callable[[Context, slice, int], tuple[Array, Context]],
) -> tuple[Array, Context]:
    """Attends to the step's decodes together and to each of its chunks alone.

    Args:
      context: The past, of one device.
      decode: Attends from the decodes; gets their context and which tokens they are.
      chunk: Attends from a chunk's tokens; gets its row too.
    """
    batch, g = context.batch, context.batch.geometry
    parts = []
    if g.decodes:
        few, rows = slice(0, g.first_chunk), slice(0, g.decodes)
        alone = Batch(
            batch.tokens[few],
            batch.positions[few],
            batch.page_table[rows],
            batch.lengths[rows],
            None if batch.homes is None else batch.homes[rows],
            geometry=Geometry(g.decodes, 0, 0, g.decode_tokens),
            target=batch.target,
        )
        mixed, after = decode(dataclasses.replace(context, batch=alone), few)
        context = dataclasses.replace(context, pools=after.pools)
        parts.append(mixed)
    for i in range(g.chunks):
        start = g.first_chunk + i * g.chunk_tokens
        tokens = slice(start, start + g.chunk_tokens)
        mixed, context = chunk(context, tokens, g.decodes + i)
        parts.append(mixed)
    return jnp.concatenate(parts), context


def attend_chunk(
    context: Context,
    row: int,
    tokens: slice,
    q: Array,
    new: Array,
    *,
    read: Read,
    scale: float,
) -> tuple[Array, Context]:
    """Writes one long chunk and attends from it to its prefix and causally to itself.

    Args:
      context: The past, of one device.
      row: The chunk's row of the step.
      tokens: Its tokens, a multiple of 128.
      q: Its queries [T, N, H], not absorbed.
      new: Its entries [T, K, E] or [T, E].
      read: Makes keys and values of entries.
      scale: Multiplies the scores.
    """
    batch, (name, pool) = context.batch, next(iter(context.pools.items()))
    positions = batch.positions[tokens]
    count = jnp.sum(positions >= 0, dtype=jnp.int32)
    start = jnp.where(count > 0, positions[0], 0)
    pages = _Pages(pool, context.layer, batch.page_table[row])
    if name == "latent" and (axes := segments.axes_of(batch)):
        own = segments.own_pages(batch, axes, row)
        pages = pages._replace(own=own, axes=axes, mesh=segments.mesh_of(batch))
    pages = pages.write(new, start, count)
    heads_first = jnp.swapaxes(q, 0, 1)
    mixed = _attend_pieces(
        pages, heads_first, start, count, read, scale, batch.target.backend
    )
    after = dataclasses.replace(context, pools={name: pages.pool})
    return jnp.swapaxes(mixed, 0, 1), after


def _owned(batch: Batch) -> tuple[Array, Array]:
    """Returns where each row's tokens begin in the flat step, and how many are real."""
    g = batch.geometry
    decodes, chunks = jnp.split(batch.positions >= 0, [g.first_chunk])
    counts = [
        decodes.reshape(g.decodes, g.decode_tokens).sum(1),
        chunks.reshape(g.chunks, g.chunk_tokens).sum(1),
    ]
    firsts = [
        jnp.arange(g.decodes) * g.decode_tokens,
        g.first_chunk + jnp.arange(g.chunks) * g.chunk_tokens,
    ]
    return jnp.concatenate(firsts), jnp.concatenate(counts).astype(jnp.int32)


class _Pages(NamedTuple):
    """One sequence's pages of one layer.

    Attributes:
      pool: [L, P, K, Z, E] or [L, P, Z, E].
      layer: Which layer.
      table: The pages in order, [J].
      own: Where devices share the sequence, which pages are here, [J].
      axes: The mesh axes of these devices.
      mesh: All axes of the mesh.
    """

    pool: Array
    layer: Array
    table: Array
    own: Array | None = None
    axes: segments.Axes = ()
    mesh: segments.Axes = ()

    @property
    def size(self) -> int:
        """Tokens in a page."""
        return self.pool.shape[-2]

    def write(self, new: Array, start: Array, count: Array) -> "_Pages":
        """Puts entries at positions `start` and on, in place, a page at a time."""
        size, zeros = self.size, (0,) * (self.pool.ndim - 2)
        padded = jnp.pad(new, ((size, 2 * size), *[(0, 0)] * (new.ndim - 1)))
        padded = padded.astype(self.pool.dtype)

        def one(i: Array, pool: Array) -> Array:
            slot = start // size + i
            first = slot * size - start  # of the page, among the new entries
            rows = jax.lax.dynamic_slice_in_dim(padded, first + size, size)
            page = self._page(slot)
            at: Sequence[Any] = (self.layer, page, *zeros)
            old = jax.lax.dynamic_slice(pool, at, (1, 1, *pool.shape[2:]))
            row = first + jnp.arange(size)
            fresh = ((row >= 0) & (row < count))[:, None]
            rows = jnp.swapaxes(rows, 0, 1) if rows.ndim > 2 else rows
            fresh = fresh[None] if rows.ndim > 2 else fresh
            page_after = jnp.where(fresh, rows, old[0, 0])
            return jax.lax.dynamic_update_slice(pool, page_after[None, None], at)

        touched = jnp.where(count > 0, (start % size + count - 1) // size + 1, 0)
        return self._replace(pool=jax.lax.fori_loop(0, touched, one, self.pool))

    def entries(self, first: Array, pages: int) -> Array:
        """Returns the entries of some pages, by token: [S, K, E] or [S, E].

        Where devices share the sequence, each sends what it has to all.
        """
        slots = first + jnp.arange(pages)
        found = self.pool[self.layer, self._page(slots)]
        if self.own is not None:
            here = self.own[jnp.minimum(slots, len(self.table) - 1)]
            found = jnp.where(here[:, None, None], found, 0)
            found = jax.lax.psum(found, self.axes)
        if found.ndim > 3:
            found = jnp.swapaxes(found, 1, 2)
        return found.reshape(-1, *found.shape[2:])

    def _page(self, slots: Array) -> Array:
        """Returns pages by their place in the sequence; page 0 for another device's."""
        slots = jnp.minimum(slots, len(self.table) - 1)
        pages = self.table[slots]
        return pages if self.own is None else jnp.where(self.own[slots], pages, 0)


def _attend_pieces(
    pages: _Pages,
    q: Array,
    start: Array,
    count: Array,
    read: Read,
    scale: float,
    backend: Backend,
) -> Array:
    """Attends from [N, T, H] to the pages before the chunk's, then to its own."""
    queries, size = q.shape[1], pages.size
    before = start // size  # whole pages, none of them the chunk's
    piece = -(-max(queries, _PIECE) // size)

    def share(entries: Array, prefix: Array, keys: Array) -> Any:
        k, v, k_rope = read(entries)
        found = flash_prefill(
            q,
            k,
            v,
            k_rope=k_rope,
            prefix=prefix,
            length=count,
            keys=keys,
            scale=scale,
            backend=backend,
            partial=True,
        )
        return attention.Partial(*found)

    def add(i: Array, so_far: Any) -> Any:
        left, full = (before - i * piece) * size, piece * size
        entries = pages.entries(i * piece, piece)

        def some() -> Any:
            keys = jnp.minimum(left, full)
            return attention.merge(so_far, share(entries, jnp.int32(full), keys))

        return jax.lax.cond(left > 0, some, lambda: so_far) if pages.axes else some()

    own = start - before * size
    mine = share(pages.entries(before, -(-queries // size) + 1), own, own + count)
    pieces = jnp.where(count > 0, -(-before // piece), 0)
    if pages.axes:  # exchanges are in step on the whole mesh
        pieces = jax.lax.pmax(pieces, pages.mesh)
    total = jax.lax.fori_loop(0, pieces, add, mine)
    safe = total._replace(total=jnp.maximum(total.total, 1e-30))
    return attention.finish(safe, q.dtype)
