"""Attention as pure functions: over a whole context, by blocks, or row by row.

A block's share of the softmax is kept as (mixed, peak, total), so that blocks, or
parts of a context that lie on different chips, can be merged in any order
(arXiv 2112.05682). `attend` is the plain form; `attend_blocks`, `attend_rows` and
`attend_pages` read the paged cache and equal it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.layers.linear import FEW_ROWS, reduce_together
from r1jax.typing import Array, Bool, Float, Int, typechecked

MASKED = -1e30

# Gives the keys [..., K, S, H] and the values [..., K, W, S] of a piece of context.
Block = Callable[[Array], tuple[Array, Array]]


class Partial(NamedTuple):
    """Attention over some of the context, not yet divided by the softmax's sum.

    Attributes:
      mixed: Values weighed by exp(score - peak), float32 [..., K, M, W].
      peak: The largest score, float32 [..., K, M, 1].
      total: Sum of exp(score - peak), float32 [..., K, M, 1].
    """

    mixed: Array
    peak: Array
    total: Array


@typechecked
def visible(
    positions: Int[Array, "*B T"], context: int, start: int | Int[Array, ""] = 0
) -> Bool[Array, "*B T S"]:
    """Returns which context tokens each query sees: those not after itself.

    The context's first token has position `start`. A padding query (position -1) sees
    nothing.
    """
    keys = jnp.expand_dims(jnp.arange(context) + start, tuple(range(positions.ndim)))
    return keys <= jnp.expand_dims(positions, -1)


def attend_partial(
    q: Float[Array, "*B K M H"],
    k: Float[Array, "*B K S H"],
    v: Float[Array, "*B K W S"],
    mask: Bool[Array, "*B K M S"],
    scale: float,
) -> Partial:
    """Attention over one block of context; M queries share each key head."""
    scores = _scores(q, k).astype(jnp.float32) * scale
    scores = jnp.where(mask, scores, MASKED)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # What no query sees may be anything, and nothing times infinity is not nothing.
    v = jnp.where(jnp.expand_dims(mask.any(axis=-2), -2), v, 0)
    mixed = _mix(weights.astype(v.dtype), v).astype(jnp.float32)
    return Partial(mixed, peak, total)


def merge(a: Partial, b: Partial) -> Partial:
    """Joins two disjoint shares of the same queries' softmax."""
    peak = jnp.maximum(a.peak, b.peak)
    left, right = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    mixed = a.mixed * left + b.mixed * right
    return Partial(mixed, peak, a.total * left + b.total * right)


def finish(share: Partial, dtype: jnp.dtype) -> Float[Array, "*B K M W"]:
    """Divides by the softmax's sum."""
    return (share.mixed / share.total).astype(dtype)


@typechecked
def attend(
    q: Float[Array, "T N H"],
    k: Float[Array, "S K H"],
    v: Float[Array, "S K W"],
    mask: Bool[Array, "T S"],
    *,
    scale: float,
) -> Float[Array, "T N W"]:
    """Grouped-query attention of one sequence (arXiv 2305.13245), float32 softmax."""
    grouped = group(q, k.shape[1])
    keys, values = jnp.moveaxis(k, 0, 1), jnp.moveaxis(v, 0, 2)
    shown = _for_heads(mask, grouped.shape)
    share = attend_partial(grouped, keys, values, shown, scale)
    return ungroup(finish(share, v.dtype), len(q))


@typechecked
def shares(
    q: Float[Array, "T N H"],
    k: Float[Array, "S K H"],
    mask: Bool[Array, "T S"],
    *,
    scale: float,
) -> Float[Array, "N T S"]:
    """The softmax by which `attend` weighs values, head by head, in float32."""
    grouped = group(q, k.shape[1])
    scores = _scores(grouped, jnp.moveaxis(k, 0, 1)).astype(jnp.float32) * scale
    shown = _for_heads(mask, grouped.shape)
    found = jax.nn.softmax(jnp.where(shown, scores, MASKED), axis=-1)
    return found.reshape(q.shape[1], *mask.shape)


@typechecked
def attend_blocks(
    q: Float[Array, "B T N H"],
    block: Block,
    positions: Int[Array, "B T"],
    *,
    tokens: int,
    kv_heads: int,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attention of all rows together over a context that comes in blocks.

    Args:
      q: Queries.
      block: Gives the i-th block of every row's context; blocks after the last one
        that any row needs are not asked for.
      positions: Of the queries; -1 for padding.
      tokens: Context tokens in a block (S).
      kv_heads: Key heads (K).
      scale: Multiplies the scores.
    """
    grouped = jax.vmap(lambda row: group(row, kv_heads))(q)

    def part(i: Array) -> Partial:
        mask = jax.vmap(lambda p: visible(p, tokens, i * tokens))(positions)
        return attend_partial(
            grouped, *block(i), _for_heads(mask, grouped.shape), scale
        )

    last = jnp.max(positions) // tokens + 1
    share = jax.lax.fori_loop(
        1, last, lambda i, s: merge(s, part(i)), part(jnp.int32(0))
    )
    return jax.vmap(lambda row: ungroup(row, q.shape[1]))(finish(share, q.dtype))


@typechecked
def attend_rows(
    q: Float[Array, "B T N H"],
    page: Block,
    positions: Int[Array, "B T"],
    page_table: Int[Array, "B J"],
    *,
    tokens: int,
    kv_heads: int,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attention row by row and page by page, for a CPU; equal to `attend_blocks`.

    No page is copied before it is used, and each row reads its own pages only. A long
    row goes in tiles as long as two pages, each of which stops at its own last page.

    Args:
      q: Queries.
      page: Gives a page by its number.
      positions: Of the queries; -1 for padding.
      page_table: Each row's page numbers.
      tokens: Context tokens in a page (S).
      kv_heads: Key heads (K).
      scale: Multiplies the scores.
    """
    rows, queries, *heads = q.shape
    tile = 2 * tokens if queries % (2 * tokens) == 0 else queries
    tiles = queries // tile
    where = positions.reshape(rows * tiles, tile)
    table = jnp.repeat(page_table, tiles, axis=0)

    def one(args: tuple[Array, Array, Array]) -> Array:
        q, where, pages = args
        grouped = group(q, kv_heads)

        def part(i: Array) -> Partial:
            mask = _for_heads(visible(where, tokens, i * tokens), grouped.shape)
            return attend_partial(grouped, *page(pages[i]), mask, scale)

        last = jnp.max(where) // tokens + 1
        first = part(jnp.int32(0))
        share = jax.lax.fori_loop(1, last, lambda i, s: merge(s, part(i)), first)
        return ungroup(finish(share, q.dtype), len(q))

    q = q.reshape(rows * tiles, tile, *heads)
    return jax.lax.map(one, (q, where, table)).reshape(rows, queries, *heads[:-1], -1)


@typechecked
def attend_pages(
    q: Float[Array, "B T N H"],
    pages: Block,
    positions: Int[Array, "B T"],
    page_table: Int[Array, "B J"],
    *,
    tokens: int,
    kv_heads: int,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attention for a CPU of rows with few queries; equal to `attend_rows`.

    The pages of all rows form one list, and as many of them as there are rows are
    attended at once, whosever they are: that is work for all cores, and a long row
    keeps no short one waiting.

        rows 0 1 2 with 2 1 3 pages      0.0 0.1 1.0 | 2.0 2.1 2.2

    Args:
      q: Queries.
      pages: Gives pages by their numbers.
      positions: Of the queries; -1 for padding.
      page_table: Each row's page numbers.
      tokens: Context tokens in a page (S).
      kv_heads: Key heads (K).
      scale: Multiplies the scores.
    """
    rows, columns = page_table.shape
    grouped = jax.vmap(lambda row: group(row, kv_heads))(q)
    used = jnp.max(positions, axis=1) // tokens + 1
    ends = jnp.cumsum(used)
    each = jax.vmap(attend_partial, (0, 0, 0, 0, None))

    def some(i: Array) -> Partial:
        entry = i * rows + jnp.arange(rows)
        row = jnp.minimum((ends[None] <= entry[:, None]).sum(axis=1), rows - 1)
        column = entry - (ends - used)[row]
        number = page_table[row, jnp.minimum(column, columns - 1)]
        where = jnp.where(entry < ends[-1], row, rows)  # the list's end sees nothing
        seen = positions.at[where].get(mode="fill", fill_value=-1)
        mask = jax.vmap(lambda p, c: visible(p, tokens, c * tokens))(seen, column)
        shown = _for_heads(mask, grouped.shape)
        return _by_row(each(grouped[row], *pages(number), shown, scale), row)

    turns = -(-ends[-1] // rows)
    first = some(jnp.int32(0))
    share = jax.lax.fori_loop(1, turns, lambda i, s: merge(s, some(i)), first)
    padding = jnp.expand_dims(used == 0, (1, 2, 3))  # its sum would be 0
    share = share._replace(total=share.total + padding)
    return jax.vmap(lambda row: ungroup(row, q.shape[1]))(finish(share, q.dtype))


def _by_row(parts: Partial, row: Int[Array, " I"]) -> Partial:
    """Merges the shares of rows that have several; the others' are masked."""
    rows = len(row)
    mine = jnp.arange(rows)[:, None] == row[None]
    of_row = jnp.expand_dims(mine, (2, 3, 4))
    peak = jnp.max(jnp.where(of_row, parts.peak[None], MASKED), axis=1)
    weights = jnp.exp(parts.peak - peak[row])

    def add(array: Array) -> Array:
        flat = (array * weights).reshape(rows, -1)
        return (mine.astype(flat.dtype) @ flat).reshape(array.shape)

    return Partial(add(parts.mixed), peak, add(parts.total))


def group(q: Float[Array, "T N H"], kv_heads: int) -> Float[Array, "K M H"]:
    """Lays the queries of each key head together, M = G T, group by group."""
    tokens, heads, width = q.shape
    split = q.reshape(tokens, kv_heads, heads // kv_heads, width)
    return jnp.moveaxis(split, 0, 2).reshape(kv_heads, -1, width)


def ungroup(mixed: Float[Array, "K M W"], tokens: int) -> Float[Array, "T N W"]:
    """Undoes `group`."""
    kv_heads, _, width = mixed.shape
    split = mixed.reshape(kv_heads, -1, tokens, width)
    return jnp.moveaxis(split, 2, 0).reshape(tokens, -1, width)


def _for_heads(mask: Array, grouped: tuple[int, ...]) -> Array:
    """Repeats a mask [*B, T, S] for every head, [*B, K, M, S]."""
    groups = grouped[-2] // mask.shape[-2]
    repeated = jnp.concatenate([mask] * groups, axis=-2)
    shape = (*mask.shape[:-2], grouped[-3], *repeated.shape[-2:])
    return jnp.broadcast_to(jnp.expand_dims(repeated, -3), shape)


def _scores(q: Array, k: Array) -> Array:
    """Products of queries [..., K, M, H] and keys [..., K, S, H]."""
    if k.ndim > 3 or q.shape[-2] > FEW_ROWS:
        return jnp.einsum("...KMH,...KSH->...KMS", q, k)
    products = [k * q[:, m, None, :] for m in range(q.shape[-2])]
    return jnp.stack(reduce_together(products, (2,)), axis=1)


def _mix(weights: Array, v: Array) -> Array:
    """Sums of values [..., K, W, S] by weights [..., K, M, S]."""
    if v.ndim > 3 or weights.shape[-2] > FEW_ROWS:
        return jnp.einsum("...KMS,...KWS->...KMW", weights, v)
    products = [v * weights[:, m, None, :] for m in range(weights.shape[-2])]
    return jnp.stack(reduce_together(products, (2,)), axis=1)
