"""Decode and mixed steps in terms of the core: pads, tiles, unpads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp

from r1jax.pallas.backend import Backend
from r1jax.pallas.paged import call, gpu, reference, tiles
from r1jax.pallas.paged.kernel import MASKED
from r1jax.pallas.paged.pool import LANES, Partial, Pool, quantise
from r1jax.pallas.paged.shape import Blocks, Shape
from r1jax.typing import Array

# Rows of a tile are padded to a multiple of this: a packed register.
_ROWS = 16
# A column of one memory tile: what an aligned write covers.
_CHUNK_BYTES = 32


@dataclass(frozen=True)
class Layout:
    """How an entry is read.

    Attributes:
      kernel: Name of the kernel.
      key: The lanes that are the key, all of which the query has.
      value: The lanes that are the value.
      scale: Multiplies the scores.
    """

    kernel: str
    key: slice
    value: slice
    scale: float


class Step(NamedTuple):
    """The arrays of one step; letters as in `r1jax.typing`.

    Attributes:
      q: Queries, [T, N, E'] (T = B in decode).
      new: The tokens' entries, [T, K, E].
      pool: The cache with its key heads, [L, P, K, Z, E].
      layer: Which layer, a scalar.
      page_table: Pages of each sequence, [B, J].
      lengths: Context of each sequence with the new tokens, [B]; 0 is an empty row.
      offsets: The position of the first key that the page table covers, [B].
    """

    q: Array
    new: Array
    pool: Pool
    layer: Array
    page_table: Array
    lengths: Array
    offsets: Array


def decode(
    layout: Layout, step: Step, *, partial: bool, backend: Backend, blocks: Blocks
) -> tuple[Array | Partial, Pool]:
    """Attends from one new token a sequence."""
    s, rows = step, len(step.q)
    if backend.kind in _PLAIN:
        plain = _PLAIN[backend.kind]
        return plain(layout, s, jnp.arange(rows), s.lengths - 1, partial)
    blocks = replace(blocks, group=min(blocks.group, rows))
    plan = tiles.decode_tiles(s.lengths, s.offsets, _capacity(s), blocks.group)
    size = replace(_size(layout, s, blocks, 1, partial), tiles=len(plan.keys))
    q = _padded(s.q.reshape(rows, size.heads, size.per_token, -1), size)
    new = _kept(s.new[:, :, None], s.pool)
    found = call.attend(
        layout.kernel, size, backend, q, new, s.pool, s.layer, s.page_table, plan, None
    )

    def flat(x: Array) -> Array:
        return x[:, :, : size.per_token].reshape(*s.q.shape[:2], -1)

    return _result(layout, size, flat, *found)


def mixed(
    layout: Layout,
    step: Step,
    starts: Array,
    counts: Array,
    *,
    partial: bool,
    backend: Backend,
    blocks: Blocks,
) -> tuple[Array | Partial, Pool]:
    """Attends from flat tokens, `counts[b]` of each sequence from `starts[b]` on."""
    s, tokens = step, len(step.q)
    where = (starts, counts, s.lengths, s.offsets)
    if backend.kind in _PLAIN:
        plain = _PLAIN[backend.kind]
        return plain(layout, s, *_owners(tokens, *where[:3]), partial)
    blocks = replace(blocks, queries=min(blocks.queries, tokens))
    size = _size(layout, s, blocks, blocks.queries, partial)
    if size.scales:  # which lie along lanes, whole pages aligned
        size = replace(size, chunk=size.page)
    plan, ragged = tiles.ragged_tiles(
        *where,
        tokens=tokens,
        tile=blocks.queries,
        capacity=_capacity(s),
        group=blocks.group,
    )
    chunks = tiles.chunks(
        *where, s.page_table, tokens=tokens, page=size.page, rows=size.chunk
    )
    size = replace(size, tiles=len(plan.keys), chunks=len(chunks.page))
    if size.heads == 1 and size.per_token % _ROWS == 0:
        size = replace(size, flat=True)
        q = _padded(s.q[None], size)[0]
    else:
        q = s.q[ragged.token].reshape(
            size.tiles, blocks.queries, size.heads, size.per_token, -1
        )
        q = jnp.moveaxis(q, 2, 1).reshape(size.tiles, size.heads, -1, q.shape[-1])
        q = _padded(q, size)
    new = _kept(jnp.moveaxis(s.new[chunks.token], 2, 1), s.pool)
    found = call.attend(
        layout.kernel,
        size,
        backend,
        q,
        new,
        s.pool,
        s.layer,
        s.page_table,
        plan,
        chunks,
    )

    def flat(x: Array) -> Array:
        if size.flat:
            return x
        used = x[:, :, : blocks.queries * size.per_token]
        split = used.reshape(*x.shape[:2], blocks.queries, size.per_token, -1)
        laid = jnp.moveaxis(split, 1, 2).reshape(-1, s.q.shape[1], x.shape[-1])
        return laid[ragged.place]

    return _result(layout, size, flat, *found, owned=ragged.owned)


def _capacity(step: Step) -> int:
    return step.page_table.shape[1] * step.pool.values.shape[3]


def _size(
    layout: Layout, step: Step, blocks: Blocks, tokens: int, partial: bool
) -> Shape:
    """Returns the sizes of a call whose tiles hold `tokens` tokens."""
    _, _, heads, page, width = step.pool.values.shape
    values = jnp.dtype(step.pool.values.dtype)
    per_token = step.q.shape[1] // heads
    rows = -(-tokens * per_token // _ROWS) * _ROWS
    stripe = min(rows, blocks.stripe)
    scales = step.pool.scales
    start = layout.value.start // LANES * LANES
    return Shape(
        tiles=0,
        heads=heads,
        rows=-(-rows // stripe) * stripe,
        per_token=per_token,
        query_width=-(-layout.key.stop // LANES) * LANES,
        value_start=start,
        value_width=-(-(layout.value.stop - start) // LANES) * LANES,
        width=width,
        scales=0 if scales is None else scales.shape[2],
        page=page,
        pages=step.page_table.shape[1],
        chunk=_CHUNK_BYTES // values.itemsize,
        chunks=0,
        flat=False,
        blocks=blocks,
        stripe=stripe,
        softmax_scale=layout.scale,
        partial=partial,
        values=values,
        compute=jnp.dtype(step.q.dtype) if values.itemsize == 1 else values,
        out=jnp.dtype(jnp.float32 if partial else step.q.dtype),
    )


def _padded(q: Array, size: Shape) -> Array:
    """Gives queries [tiles, K, rows, lanes] the rows and lanes of the kernel."""
    rows = 0 if size.flat else size.rows - q.shape[2]
    lanes = size.query_width - q.shape[3]
    return jnp.pad(q, ((0, 0), (0, 0), (0, rows), (0, lanes))).astype(size.compute)


def _kept(new: Array, pool: Pool) -> Pool:
    """Returns entries [..., K, rows, E] as the pool keeps them."""
    if pool.scales is None:
        return Pool(new.astype(pool.values.dtype))
    heads = pool.values.shape[2]
    moved = jnp.swapaxes(new, -2, -3)
    values, scales = quantise(moved, pool.scales.shape[2] // heads, pool.values.dtype)
    return Pool(jnp.swapaxes(values, -2, -3), jnp.swapaxes(scales, -1, -2))


def _result(
    layout: Layout,
    size: Shape,
    flat: Callable[[Array], Array],
    out: Array,
    statistics: Array | None,
    pool: Pool,
    owned: Array | None = None,
) -> tuple[Array | Partial, Pool]:
    """Lays what the kernel gave by tokens and heads."""
    first = layout.value.start - size.value_start
    mixed = flat(out)[..., first : layout.value.stop - size.value_start]
    if owned is not None:
        mixed = jnp.where(owned[:, None, None], mixed, 0)
    if statistics is None:
        return mixed, pool
    peak, total = jnp.moveaxis(flat(statistics)[..., :2], -1, 0)
    if owned is not None:
        peak = jnp.where(owned[:, None], peak, MASKED)
        total = jnp.where(owned[:, None], total, 0)
    return Partial(mixed, peak, total), pool


def _owners(
    tokens: int, starts: Array, counts: Array, lengths: Array
) -> tuple[Array, Array]:
    """Returns each flat token's sequence and its position; -1 for no sequence."""
    flat = jnp.arange(tokens)[:, None]
    inside = (flat >= starts[None]) & (flat < (starts + counts)[None])
    owner = jnp.argmax(inside, axis=1)
    position = (lengths - counts - starts)[owner] + jnp.arange(tokens)
    return owner, jnp.where(inside.any(axis=1), position, -1)


def _on_gpu(
    layout: Layout, step: Step, owner: Array, positions: Array, partial: bool
) -> tuple[Array | Partial, Pool]:
    """Attends from each token as from a sequence of its own.

    Writing needs no kernel: a donated pool takes a scatter in place.
    """
    s, at = step, positions - step.offsets[owner]
    pool = reference.write(s.new, s.pool, s.layer, s.page_table, owner, at)
    here = jnp.where(positions >= 0, jnp.clip(at + 1, 0, _capacity(s)), 0)
    latent = layout.value.start == 0
    found = gpu.decode(
        s.q,
        pool.values[:, :, 0] if latent else pool.values,
        s.layer,
        s.page_table[owner],
        here,
        scale=layout.scale,
        value_width=layout.value.stop if latent else None,
        scales=pool.scales,
        partial=partial,
    )
    return found, pool


def _refer(
    layout: Layout, step: Step, owner: Array, positions: Array, partial: bool
) -> tuple[Array | Partial, Pool]:
    """Runs the reference."""
    share, pool = reference.attend(
        *step[:5],
        owner,
        positions,
        key=layout.key,
        value=layout.value,
        scale=layout.scale,
        offsets=step.offsets,
    )
    return share if partial else reference.finish(share, step.q.dtype), pool


# Forms that take tokens as they come, without tiles or schedules.
_PLAIN = {"reference": _refer, "gpu": _on_gpu}
