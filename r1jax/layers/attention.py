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

from r1jax.layers.linear import reduce_together
from r1jax.typing import Array, Bool, Float, Int, typechecked

MASKED = -1e30
# So many queries of a key head at most are few: sums are faster than matrix products.
FEW_QUERIES = 8

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
    rows = len(q)
    grouped = jax.vmap(lambda row: group(row, kv_heads))(q)
    # The same in all layers: outside the loop XLA makes it once for them.
    of, numbers, where, turns = _list_pages(positions, page_table, tokens)

    def more(i: Array, share: Partial) -> Partial:
        row, keys = of[i], pages(numbers[i])[0]
        mask = visible(where[i], tokens)
        scores = jax.vmap(_scores)(grouped[row], keys).astype(jnp.float32) * scale
        scores = jnp.where(_for_heads(mask, grouped.shape), scores, MASKED)
        mine = jnp.arange(rows)[:, None] == row[None]
        highest = jnp.max(scores, axis=-1, keepdims=True)
        of_row = jnp.where(jnp.expand_dims(mine, (2, 3, 4)), highest[None], MASKED)
        peak = jnp.maximum(share.peak, jnp.max(of_row, axis=1))
        # Behind the barrier they are computed once, not in each use.
        weights = jax.lax.optimization_barrier(jnp.exp(scores - peak[row]))
        seen = jnp.expand_dims(mask.any(axis=1), (1, 2))
        mixed = _mix_seen(weights, lambda: pages(numbers[i])[1], seen)
        left = jnp.exp(share.peak - peak)

        def add(old: Array, new: Array) -> Array:
            flat = new.astype(jnp.float32).reshape(rows, -1)
            return old * left + (mine.astype(jnp.float32) @ flat).reshape(old.shape)

        total = jnp.sum(weights, axis=-1, keepdims=True)
        return Partial(add(share.mixed, mixed), peak, add(share.total, total))

    width = jax.eval_shape(pages, numbers[0])[1].shape[-2]
    zeros = jnp.zeros((*grouped.shape[:-1], width))
    one = zeros[..., :1]
    # Above what is masked, whose weights are 0 even where a row has nothing else.
    share = jax.lax.fori_loop(0, turns, more, Partial(zeros, one + MASKED / 2, one))
    share = share._replace(total=share.total + (share.total == 0))  # padding
    return jax.vmap(lambda row: ungroup(row, q.shape[1]))(finish(share, q.dtype))


def _list_pages(
    positions: Int[Array, "B T"], page_table: Int[Array, "B J"], tokens: int
) -> tuple[Int[Array, "J B"], Int[Array, "J B"], Int[Array, "J B T"], Int[Array, ""]]:
    """Lists the pages of all rows, as many at a time as there are rows.

    Returns:
      The row of each page, its number, the last token in it that each query sees (-1
      for none, as behind the list's end), and how many times there are.
    """
    rows, columns = page_table.shape
    used = jnp.max(positions, axis=1) // tokens + 1
    ends, entry = jnp.cumsum(used), jnp.arange(rows * columns)
    of = jnp.repeat(jnp.arange(rows), used, total_repeat_length=len(entry))
    column = jnp.clip(entry - (ends - used)[of], 0, columns - 1)
    where = positions[of] - jnp.expand_dims(column * tokens, 1)
    where = jnp.where(jnp.expand_dims(entry < ends[-1], 1), where, -1)
    numbers = page_table[of, column]
    pages = (x.reshape(columns, rows, *x.shape[1:]) for x in (of, numbers, where))
    of, numbers, where = pages
    return of, numbers, where, -(-ends[-1] // rows)


def _mix_seen(
    weights: Float[Array, "I K M Z"],
    values: Callable[[], Float[Array, "I K W Z"]],
    seen: Bool[Array, "I 1 1 Z"],
) -> Float[Array, "I K M W"]:
    """Sums values whose weights are 0 where nothing is seen, whatever lies there.

    Leaving out what is not seen takes three times as long as the sums, and makes a
    difference only where it is infinite or not a number. Either way reads the values
    where they lie.
    """
    mix = jax.vmap(lambda weights, v: _mix(weights.astype(v.dtype), v))
    mixed = mix(weights, values())
    return jax.lax.cond(
        jnp.isfinite(mixed).all(),
        lambda: mixed,
        lambda: mix(weights, jnp.where(seen, values(), 0)),
    )


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
    if k.ndim > 3 or q.shape[-2] > FEW_QUERIES:
        return jnp.einsum("...KMH,...KSH->...KMS", q, k)
    products = [k * q[:, m, None, :] for m in range(q.shape[-2])]
    return jnp.stack(reduce_together(products, (2,)), axis=1)


def _mix(weights: Array, v: Array) -> Array:
    """Sums of values [..., K, W, S] by weights [..., K, M, S]."""
    if v.ndim > 3 or weights.shape[-2] > FEW_QUERIES:
        return jnp.einsum("...KMS,...KWS->...KMW", weights, v)
    products = [v * weights[:, m, None, :] for m in range(weights.shape[-2])]
    return jnp.stack(reduce_together(products, (2,)), axis=1)
