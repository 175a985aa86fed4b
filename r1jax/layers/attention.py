"""Attention as pure functions: one softmax, whole or merged from blocks of context.

A block's share of the softmax is kept as (mixed, peak, total), so that blocks, or
parts of a context that lie on different chips, can be merged in any order
(arXiv 2112.05682).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.typing import Array, Bool, Float, Int, typechecked

MASKED = -1e30


class Partial(NamedTuple):
    """Attention over some of the context, not yet divided by the softmax's sum.

    Attributes:
      mixed: Values weighed by exp(score - peak), float32 [B, K, G, T, W].
      peak: The largest score, float32 [B, K, G, T, 1].
      total: Sum of exp(score - peak), float32 [B, K, G, T, 1].
    """

    mixed: Array
    peak: Array
    total: Array


@typechecked
def visible(
    positions: Int[Array, "B T"], context: int, start: int | Int[Array, ""] = 0
) -> Bool[Array, "B T S"]:
    """Returns which context tokens each query sees: those not after itself.

    The context's first token has position `start`. A padding query (position -1) sees
    nothing.
    """
    return (jnp.arange(context) + start)[None, None, :] <= positions[:, :, None]


@typechecked
def attend_partial(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K W"],
    mask: Bool[Array, "B T S"],
    scale: float,
) -> Partial:
    """Grouped-query attention over one block of context (arXiv 2305.13245)."""
    rows, tokens, heads, _ = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(rows, tokens, kv_heads, heads // kv_heads, -1)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, k).astype(jnp.float32) * scale
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum("BKGTS,BSKW->BKGTW", weights.astype(v.dtype), v)
    return Partial(mixed.astype(jnp.float32), peak, total)


def merge(a: Partial, b: Partial) -> Partial:
    """Joins two disjoint shares of the same queries' softmax."""
    peak = jnp.maximum(a.peak, b.peak)
    left, right = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    mixed = a.mixed * left + b.mixed * right
    return Partial(mixed, peak, a.total * left + b.total * right)


def finish(partial: Partial, dtype: jnp.dtype) -> Array:
    """Divides by the softmax's sum and returns [B, T, N, W]."""
    mixed = (partial.mixed / partial.total).astype(dtype)
    rows, kv_heads, groups, tokens, width = mixed.shape
    mixed = jnp.moveaxis(mixed, 3, 1)
    return mixed.reshape(rows, tokens, kv_heads * groups, width)


@typechecked
def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K W"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attention over a whole context at once; softmax in float32."""
    return finish(attend_partial(q, k, v, mask, scale), v.dtype)


@typechecked
def attend_blocks(
    q: Float[Array, "B T N H"],
    block: Callable[[Array], tuple[Array, Array]],
    positions: Int[Array, "B T"],
    *,
    tokens: int,
    scale: float,
) -> Float[Array, "B T N W"]:
    """Attention over a context that comes in blocks; equal to `attend` over all.

    Args:
      q: Queries.
      block: Gives keys [B, S, K, H] and values [B, S, K, W] of the i-th block.
      positions: Of the queries; -1 for padding. Blocks past the last one are not read.
      tokens: Context tokens in a block (S).
      scale: Multiplies the scores.
    """

    def part(i: Array) -> Partial:
        k, v = block(i)
        return attend_partial(q, k, v, visible(positions, tokens, i * tokens), scale)

    def more(i: Array, so_far: Partial) -> Partial:
        return merge(so_far, part(i))

    blocks = jnp.max(positions) // tokens + 1
    return finish(jax.lax.fori_loop(1, blocks, more, part(jnp.int32(0))), q.dtype)
