"""Checks the arguments of absorbed attention and hands them to the core."""

import jax.numpy as jnp

from r1jax.pallas.backend import Backend
from r1jax.pallas.mla_attention.blocks import choose_decode, choose_mixed
from r1jax.pallas.paged import Partial, Pool, checks, entries
from r1jax.pallas.paged.shape import Blocks
from r1jax.typing import Array


def decode(
    q: Array,
    new: Array,
    pool: Pool,
    layer: Array,
    page_table: Array,
    lengths: Array,
    *,
    scale: float,
    value_width: int,
    backend: Backend,
    offsets: Array | None = None,
    partial: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Array | Partial, Pool]:
    """Writes one new latent a sequence into its page and attends over all of them.

    Args:
      q: Absorbed queries, [B, N, E] with E the width of the pool's entries, or less:
        what is missing counts as zeros.
      new: Each sequence's new entry, [B, E].
      pool: Latents [L, P, Z, E], int8 with scales [L, P, 1, Z]; donated and written in
        place.
      layer: Which layer, an int32 scalar.
      page_table: Pages of each sequence in order, int32 [B, J]; entries past its
        length may be any number.
      lengths: Context of each sequence with the new token, int32 [B]; an empty row has
        0, writes nothing and gives zeros.
      scale: Multiplies the scores.
      value_width: How many of an entry's first lanes are the value (W).
      backend: Which form runs.
      offsets: Where the cache is cut along sequences: the position of the first token
        that each row of `page_table` covers, int32 [B]; the table covers J Z
        positions, and a token elsewhere is neither seen nor written here.
      partial: Gives the share of the softmax, to be merged, instead of its result.
      blocks: Sizes to use instead of the table's.

    Returns:
      Mixed values [B, N, W] in q's dtype (with `partial`, float32 and undivided, with
      peak and total) and the pool.

    Raises:
      ConfigError: Sizes that the kernel cannot work with.
    """
    checks.lanes("mla_attention", pool.values.shape[-1], value_width)
    step = _step(q, new, pool, layer, page_table, lengths, offsets)
    blocks = blocks or choose_decode(backend, step)
    checks.call("mla_attention", step, blocks, scale, backend)
    layout = _layout("decode", pool, value_width, scale)
    found, after = entries.decode(
        layout, step, partial=partial, backend=backend, blocks=blocks
    )
    return found, _without_heads(after)


def mixed(
    q: Array,
    new: Array,
    pool: Pool,
    layer: Array,
    page_table: Array,
    lengths: Array,
    starts: Array,
    counts: Array,
    *,
    scale: float,
    value_width: int,
    backend: Backend,
    offsets: Array | None = None,
    partial: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Array | Partial, Pool]:
    """Writes new latents into their pages and attends from each to those not after it.

    As `decode`, but a sequence brings any number of tokens: `q` is [T, N, E], `new`
    [T, E], and sequence b owns the rows from `starts[b]` to `starts[b] + counts[b]`,
    the last of its `lengths[b]` tokens. Rows that no sequence owns give zeros.

    Raises:
      ConfigError: Sizes that the kernel cannot work with.
    """
    checks.lanes("mla_attention", pool.values.shape[-1], value_width)
    step = _step(q, new, pool, layer, page_table, lengths, offsets)
    blocks = blocks or choose_mixed(step)
    checks.call("mla_attention", step, blocks, scale, backend)
    found, after = entries.mixed(
        _layout("mixed", pool, value_width, scale),
        step,
        starts,
        counts,
        partial=partial,
        backend=backend,
        blocks=blocks,
    )
    return found, _without_heads(after)


def _step(
    q: Array,
    new: Array,
    pool: Pool,
    layer: Array,
    page_table: Array,
    lengths: Array,
    offsets: Array | None,
) -> entries.Step:
    offsets = jnp.zeros_like(lengths) if offsets is None else offsets
    one_head = Pool(pool.values[:, :, None], pool.scales)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, pool.values.shape[-1] - q.shape[-1])))
    return entries.Step(q, new[:, None], one_head, layer, page_table, lengths, offsets)


def _layout(kind: str, pool: Pool, value_width: int, scale: float) -> entries.Layout:
    width = pool.values.shape[-1]
    return entries.Layout(f"mla_{kind}", slice(0, width), slice(0, value_width), scale)


def _without_heads(pool: Pool) -> Pool:
    return Pool(pool.values[:, :, 0], pool.scales)
