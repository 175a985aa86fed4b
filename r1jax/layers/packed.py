"""Attention in training: rows of packed sequences, each of which sees itself alone."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.layers.attention import MASKED
from r1jax.typing import Array, Float, Int, typechecked


@flax.struct.dataclass
class Rows:
    """Where sequences lie in a batch whose layers see its tokens as one flat axis.

    Attributes:
      segments: [B, S]: which sequence each token is of; equal numbers of a row lie
        together, and 0 is padding (which sees the padding before it).
    """

    segments: Int[Array, "B S"]


@typechecked
def attend_packed(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K W"],
    rows: Rows,
    *,
    scale: float,
) -> Float[Array, "T N W"]:
    """Grouped-query attention within each sequence; equal to `attend` on it alone.

    The T = B S tokens are the rows, one behind the other. The softmax is float32.
    """
    batch, length = rows.segments.shape
    heads, kv_heads = q.shape[1], k.shape[1]
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, -1)
    k, v = (jnp.swapaxes(a.reshape(batch, length, kv_heads, -1), 1, 2) for a in (k, v))
    q = q.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, q.shape[-1])
    mixed = _attend(q * scale, k, v, rows.segments)
    mixed = mixed.reshape(batch, heads, length, -1)
    return jnp.swapaxes(mixed, 1, 2).reshape(-1, heads, v.shape[-1])


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, segments: Array) -> Array:
    """Maps queries [B, K, G S, H], keys and values [B, K, S, ...] to [B, K, G S, W]."""
    return _forward(q, k, v, segments)[0]


def _forward(q: Array, k: Array, v: Array, segments: Array) -> tuple[Array, Any]:
    """Divides the mix, not the weights: one pass over all pairs less."""
    shape = (*q.shape[:2], -1, *2 * segments.shape[1:])
    same = segments[:, :, None] == segments[:, None, :]
    seen = same & jnp.tri(segments.shape[1], dtype=bool)[None]
    scores = jnp.einsum("BKQH,BKSH->BKQS", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[:, None, None], scores.reshape(shape), MASKED)
    shares = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = shares.reshape(*q.shape[:3], -1)
    total = shares.sum(axis=-1, keepdims=True)
    shares = shares.astype(v.dtype)
    mixed = _weigh(shares, v) / total
    mixed = mixed.astype(v.dtype)
    return mixed, (q, k, v, shares, total, mixed)


def _backward(kept: Any, slope: Array) -> tuple[Array, Array, Array, None]:
    """The softmax's own derivative: shares x (their slope less its mean)."""
    q, k, v, shares, total, mixed = kept
    slope = slope.astype(jnp.float32) / total
    mean = (slope * mixed).sum(axis=-1, keepdims=True)
    slope = slope.astype(v.dtype)
    towards = jnp.einsum(
        "BKQW,BKSW->BKQS", slope, v, preferred_element_type=jnp.float32
    )
    inner = (shares * (towards - mean)).astype(q.dtype)
    by_query = jnp.einsum("BKQS,BKQH->BKSH", inner, q)
    by_share = jnp.einsum("BKQS,BKQW->BKSW", shares, slope)
    return jnp.einsum("BKQS,BKSH->BKQH", inner, k), by_query, by_share, None


def _weigh(shares: Array, v: Array) -> Array:
    return jnp.einsum("BKQS,BKSW->BKQW", shares, v, preferred_element_type=jnp.float32)


_attend.defvjp(_forward, _backward)
