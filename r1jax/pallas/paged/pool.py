"""The paged cache as kernels see it, and what they hand back."""

from typing import NamedTuple

import jax.numpy as jnp

from r1jax.typing import Array

LANES = 128


class Pool(NamedTuple):
    """All pages of all layers of one kind of cache.

    Attributes:
      values: Entries, [L, P, K, Z, E] or, with one key head, [L, P, Z, E]; bfloat16,
        float32, int8 or float8_e4m3fn. Page 0 belongs to no sequence.
      scales: With int8, float32 [L, P, A, Z]: what a token's entry is multiplied by.
        A is 1 for a latent; with keys and values side by side it is 2 K, the K heads'
        keys first. None otherwise.
    """

    values: Array
    scales: Array | None = None


class Partial(NamedTuple):
    """Attention over some of the context, not yet divided by the softmax's sum.

    A query that sees nothing has peak -1e30, total 0 and mixed 0, so that it merges
    with other shares as nothing.

    Attributes:
      mixed: Values weighed by exp(score - peak), float32 [T, N, W].
      peak: The largest score, float32 [T, N].
      total: Sum of exp(score - peak), float32 [T, N].
    """

    mixed: Array
    peak: Array
    total: Array


def quantise(entries: Array, parts: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Returns int8 entries [..., K, E] and scales [..., parts K] of float entries.

    Args:
      entries: Key heads' entries [..., K, E].
      parts: 2 where the first half of E is the key and the rest the value, each with
        its own scale; else 1.
      dtype: Of the result.
    """
    *lead, heads, width = entries.shape
    split = entries.astype(jnp.float32).reshape(*lead, heads, parts, width // parts)
    largest = jnp.max(jnp.abs(split), axis=-1, keepdims=True)
    scales = jnp.maximum(largest, 1e-20) / 127
    values = jnp.round(split / scales).astype(dtype).reshape(entries.shape)
    ordered = jnp.moveaxis(jnp.squeeze(scales, -1), -1, -2)
    return values, ordered.reshape(*lead, parts * heads)
