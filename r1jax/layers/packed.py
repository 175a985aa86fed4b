"""Attention in training: rows of packed sequences, each of which sees itself alone."""

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
    shape = rows.segments.shape
    heads, kv_heads = q.shape[1], k.shape[1]
    q = q.reshape(*shape, kv_heads, heads // kv_heads, -1) * scale
    k, v = (a.reshape(*shape, kv_heads, -1) for a in (k, v))
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k).astype(jnp.float32)
    same = rows.segments[:, :, None] == rows.segments[:, None, :]
    seen = same & jnp.tri(shape[1], dtype=bool)[None]
    scores = jnp.where(seen[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("BKGTS,BSKW->BTKGW", weights, v)
    return mixed.reshape(-1, heads, v.shape[-1])
