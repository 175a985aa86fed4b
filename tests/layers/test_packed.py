"""Attention in training: values and gradients, against each sequence alone."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.layers.attention import attend, visible
from r1jax.layers.packed import Rows, attend_packed

SEGMENTS = jnp.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 3, 3]])
SPANS = [(0, 4), (4, 6), (7, 9), (9, 12), (12, 14)]  # the sequences, on the flat axis
SCALE = 0.3


def apart(q, k, v):
    """Plain attention over one sequence after the other; 0 at padding."""
    out = jnp.zeros((*q.shape[:2], v.shape[-1]))
    for start, end in SPANS:
        mask = visible(jnp.arange(end - start), end - start)
        parts = (a[start:end] for a in (q, k, v))
        out = out.at[start:end].set(attend(*parts, mask, scale=SCALE))
    return out


def test_values_and_gradients_equal_each_sequence_alone(rng):
    tokens = SEGMENTS.size
    shapes = ((tokens, 6, 8), (tokens, 2, 8), (tokens, 2, 5))
    qkv = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]
    real = (SEGMENTS.reshape(-1) > 0)[:, None, None]
    slope = jnp.asarray(rng.standard_normal((tokens, 6, 5)), jnp.float32) * real

    def packed(q, k, v):
        return attend_packed(q, k, v, Rows(SEGMENTS), scale=SCALE) * real

    def both(form):
        return jax.jit(lambda *args: (form(*args), jax.vjp(form, *args)[1](slope)))

    y, mine = both(packed)(*qkv)
    wanted, plain = both(apart)(*qkv)
    np.testing.assert_allclose(y, wanted, atol=2e-6)
    for one, other in zip(mine, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)
