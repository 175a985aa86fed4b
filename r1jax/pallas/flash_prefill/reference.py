"""What flash_prefill means, in plain JAX."""

import jax.numpy as jnp

from r1jax.typing import Array

MASKED = -1e30


def flash_prefill(
    q: Array, k: Array, v: Array, prefix: Array, length: Array, scale: float
) -> tuple[Array, Array, Array]:
    """Returns undivided outputs [N, T, W], peak and total [N, T, 1], float32."""
    group = q.shape[0] // k.shape[0]
    tokens, keys = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])[None]
    seen = (keys <= prefix + tokens) & (tokens < length)
    k, v = jnp.repeat(k, group, axis=0), jnp.repeat(v, group, axis=0)
    v = jnp.where(keys[None] < prefix + length, v, 0)
    scores = jnp.einsum("NTH,NSH->NTS", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[None], scores * scale, MASKED)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(seen[None], jnp.exp(scores - peak), 0)
    mixed = jnp.einsum(
        "NTS,NWS->NTW", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return mixed, peak, weights.sum(axis=-1, keepdims=True)
