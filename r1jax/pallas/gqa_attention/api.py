"""Checks the arguments of grouped-query attention and hands them to the core."""

import jax.numpy as jnp

from r1jax.pallas.backend import Backend
from r1jax.pallas.gqa_attention.blocks import choose_decode, choose_mixed
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
    backend: Backend,
    offsets: Array | None = None,
    partial: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Array | Partial, Pool]:
    """Writes one new key and value a sequence and attends over all of them.

    Args:
      q: Queries, [B, N, H].
      new: Each sequence's new key heads, the key's lanes and then the value's,
        [B, K, 2 H].
      pool: Keys and values [L, P, K, Z, 2 H], int8 with scales [L, P, 2 K, Z]; donated
        and written in place.
      layer: Which layer, an int32 scalar.
      page_table: Pages of each sequence in order, int32 [B, J]; entries past its
        length may be any number.
      lengths: Context of each sequence with the new token, int32 [B]; an empty row has
        0, writes nothing and gives zeros.
      scale: Multiplies the scores.
      backend: Which form runs.
      offsets: Where the cache is cut along sequences: the position of the first token
        that each row of `page_table` covers, int32 [B]; the table covers J Z
        positions, and a token elsewhere is neither seen nor written here.
      partial: Gives the share of the softmax, to be merged, instead of its result.
      blocks: Sizes to use instead of the table's.

    Returns:
      Mixed values [B, N, H] in q's dtype (with `partial`, float32 and undivided, with
      peak and total) and the pool.

    Raises:
      ConfigError: Sizes that the kernel cannot work with.
    """
    step = _step(q, new, pool, layer, page_table, lengths, offsets)
    blocks = blocks or choose_decode(step)
    checks.call("gqa_attention", step, blocks, scale, backend)
    layout = _layout("decode", q.shape[-1], scale)
    return entries.decode(layout, step, partial=partial, backend=backend, blocks=blocks)


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
    backend: Backend,
    offsets: Array | None = None,
    partial: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Array | Partial, Pool]:
    """Writes new keys and values and attends from each token to those not after it.

    As `decode`, but a sequence brings any number of tokens: `q` is [T, N, H], `new`
    [T, K, 2 H], and sequence b owns the rows from `starts[b]` to `starts[b] +
    counts[b]`, the last of its `lengths[b]` tokens. Rows that no sequence owns give
    zeros.

    Raises:
      ConfigError: Sizes that the kernel cannot work with.
    """
    step = _step(q, new, pool, layer, page_table, lengths, offsets)
    blocks = blocks or choose_mixed(step)
    checks.call("gqa_attention", step, blocks, scale, backend)
    return entries.mixed(
        _layout("mixed", q.shape[-1], scale),
        step,
        starts,
        counts,
        partial=partial,
        backend=backend,
        blocks=blocks,
    )


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
    return entries.Step(q, new, pool, layer, page_table, lengths, offsets)


def _layout(kind: str, width: int, scale: float) -> entries.Layout:
    return entries.Layout(
        f"gqa_{kind}", slice(0, width), slice(width, 2 * width), scale
    )
