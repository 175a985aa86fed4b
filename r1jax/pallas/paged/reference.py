"""The meaning of paged attention, in plain JAX."""

import jax.numpy as jnp

from r1jax.pallas.paged.pool import Partial, Pool, quantise
from r1jax.typing import Array

MASKED = -1e30


def attend(
    q: Array,
    new: Array,
    pool: Pool,
    layer: Array,
    page_table: Array,
    owner: Array,
    positions: Array,
    *,
    key: slice,
    value: slice,
    scale: float,
    offsets: Array,
) -> tuple[Partial, Pool]:
    """Writes each token's entry, then attends from it to what it may see.

    Args:
      q: Queries, [T, N, E'].
      new: Entries, [T, K, E].
      pool: The cache with its key heads, [L, P, K, Z, E].
      layer: Which layer.
      page_table: [B, J].
      owner: Each token's sequence, [T].
      positions: Each token's place in its sequence, [T]; -1 where no sequence owns it.
      key: The lanes of an entry that are the key.
      value: The lanes that are the value.
      scale: Multiplies the scores.
      offsets: The position of the first key that the page table covers, [B].
    """
    pool = write(new, pool, layer, page_table, owner, positions - offsets[owner])
    entries = _read(pool, layer, page_table[owner]).astype(jnp.float32)  # [T,K,S,E]
    here = jnp.arange(entries.shape[2])[None] + offsets[owner][:, None]
    shown = here <= positions[:, None]  # [T, S]
    entries = jnp.where(shown[:, None, :, None], entries, 0)
    grouped = q.reshape(len(q), entries.shape[1], -1, q.shape[-1]).astype(jnp.float32)
    scores = jnp.einsum("TKGE,TKSE->TKGS", grouped, entries[..., key]) * scale
    scores = jnp.where(shown[:, None, None], scores, MASKED)
    peak = jnp.max(scores, axis=-1)
    weights = jnp.where(shown[:, None, None], jnp.exp(scores - peak[..., None]), 0)
    mixed = jnp.einsum("TKGS,TKSW->TKGW", weights, entries[..., value])
    flat = q.shape[:2]
    total = weights.sum(-1).reshape(flat)
    return Partial(mixed.reshape(*flat, -1), peak.reshape(flat), total), pool


def finish(share: Partial, dtype: jnp.dtype) -> Array:
    """Divides by the softmax's sum; what saw nothing is zero."""
    total = jnp.where(share.total > 0, share.total, 1)
    return (share.mixed / total[..., None]).astype(dtype)


def write(
    new: Array, pool: Pool, layer: Array, table: Array, owner: Array, at: Array
) -> Pool:
    """Puts entries at places `at` of their sequences; none outside the table."""
    pages, size = pool.values.shape[1], pool.values.shape[3]
    inside = (at >= 0) & (at < table.shape[1] * size)
    slot = jnp.clip(at // size, 0, table.shape[1] - 1)
    page = jnp.where(inside, table[owner, slot], pages)
    row = at % size
    if pool.scales is None:
        put = pool.values.at[layer, page, :, row].set(
            new.astype(pool.values.dtype), mode="drop"
        )
        return Pool(put)
    parts = pool.scales.shape[2] // new.shape[1]
    values, scales = quantise(new, parts, pool.values.dtype)
    return Pool(
        pool.values.at[layer, page, :, row].set(values, mode="drop"),
        pool.scales.at[layer, page, :, row].set(scales, mode="drop"),
    )


def _read(pool: Pool, layer: Array, table: Array) -> Array:
    """Returns the entries of the pages in `table` [T, J] end to end, [T, K, S, E]."""
    pages = pool.values[layer, table].astype(jnp.float32)  # [T, J, K, Z, E]
    if pool.scales is not None:
        *lead, heads, size, width = pages.shape
        parts = pool.scales.shape[2] // heads
        scales = pool.scales[layer, table].reshape(*lead, parts, heads, size)
        split = pages.reshape(*lead, heads, size, parts, width // parts)
        pages = split * jnp.moveaxis(scales, -3, -1)[..., None]
        pages = pages.reshape(*lead, heads, size, width)
    moved = jnp.moveaxis(pages, 1, 2)
    return moved.reshape(*moved.shape[:2], -1, moved.shape[-1])
