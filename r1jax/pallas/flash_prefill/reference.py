"""What flash_prefill means, in plain JAX."""

from typing import NamedTuple

import jax.numpy as jnp

from r1jax.typing import Array

MASKED = -1e30


class Bounds(NamedTuple):
    """What of a call's arrays is real: scalars.

    Attributes:
      prefix: The first query's position, counted from the first key.
      length: Queries.
      keys: Keys.
    """

    prefix: Array
    length: Array
    keys: Array


def flash_prefill(
    q: Array, k: Array, v: Array, bounds: Bounds, scale: float
) -> tuple[Array, Array, Array]:
    """Returns undivided outputs [N, T, W], peak and total [N, T, 1], float32."""
    group = q.shape[0] // k.shape[0]
    tokens, keys = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])[None]
    seen = (keys <= bounds.prefix + tokens) & (tokens < bounds.length)
    seen &= keys < bounds.keys
    k, v = jnp.repeat(k, group, axis=0), jnp.repeat(v, group, axis=0)
    v = jnp.where(keys[None] < bounds.keys, v, 0)
    scores = jnp.einsum("NTH,NSH->NTS", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[None], scores * scale, MASKED)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(seen[None], jnp.exp(scores - peak), 0)
    mixed = jnp.einsum(
        "NTS,NWS->NTW", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return mixed, peak, weights.sum(axis=-1, keepdims=True)
