"""Latent attention: two forms, one answer, and which is cheaper where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import cache
from r1jax.layers import mla
from r1jax.layers.mla import LatentWeights, absorbed_is_cheaper, expand
from r1jax.presets import preset

PAGE = 4


def part_of(rng, config, lengths, queries, by_rows, columns=5):
    """Rows of random latents; the last `queries` tokens of each ask."""
    rows = len(lengths)
    table = jnp.arange(1, rows * columns + 1).reshape(rows, columns)
    shape = (config.layers, rows * columns + 1, 1, PAGE, config.attention.latent_dim)
    pools = {"latent": jnp.float32(rng.standard_normal(shape))}
    last = jnp.asarray(lengths)[:, None] - 1
    positions = jnp.maximum(last - jnp.arange(queries)[::-1][None], -1)
    return cache.Part(pools, jnp.int32(1), positions, table, 0, by_rows)


def random_weights(rng, c):
    k_up = rng.standard_normal((c.heads, c.nope_dim, c.kv_rank)) / c.kv_rank**0.5
    v_up = rng.standard_normal((c.heads, c.value_dim, c.kv_rank)) / c.kv_rank**0.5
    return LatentWeights(jnp.float32(k_up), jnp.float32(v_up))


@pytest.mark.parametrize("by_rows", [True, False], ids=["rows", "blocks"])
@pytest.mark.parametrize("queries", [1, 5])
def test_absorbed_equals_expanded(rng, tiny, by_rows, queries):
    config = tiny("r1")
    c = dataclasses.replace(config.attention, value_dim=12)  # unlike nope_dim
    part = part_of(rng, config, [1, 3, 4, 5, 20], queries, by_rows)
    weights = random_weights(rng, c)
    shape = (5, queries, c.heads, c.nope_dim + c.rope_dim)
    q = jnp.float32(rng.standard_normal(shape))

    @jax.jit
    def both(part, q, weights):
        forms = (mla.attend_absorbed, mla.attend_expanded)
        return [form(part, q, weights, 0.2) for form in forms]

    absorbed, expanded = both(part, q, weights)
    real = np.asarray(part.positions) >= 0
    assert absorbed.shape == (5, queries, c.heads, 12)
    np.testing.assert_allclose(absorbed[real], expanded[real], atol=1e-5)


def test_expanding_gives_every_head_the_same_rotated_key(rng, tiny):
    c = tiny("r1").attention
    entry = jnp.float32(rng.standard_normal((7, c.latent_dim)))
    weights = random_weights(rng, c)
    k, v = expand(entry, weights)
    latent, k_rope = entry[:, : c.kv_rank], entry[:, c.kv_rank :]
    for head in range(c.heads):
        np.testing.assert_array_equal(k[head, :, c.nope_dim :], k_rope)
        np.testing.assert_allclose(
            k[head, :, : c.nope_dim], latent @ weights.k_up[head].T, atol=1e-5
        )
        np.testing.assert_allclose(v[head].T, latent @ weights.v_up[head].T, atol=1e-5)


def test_r1_rebuilds_keys_from_171_query_tokens_on():
    attention = preset("r1").attention
    assert absorbed_is_cheaper(attention, 1)
    assert absorbed_is_cheaper(attention, 170)
    assert not absorbed_is_cheaper(attention, 171)


def test_the_softmax_scale_is_that_of_the_head_not_of_the_latent(rng, tiny):
    """Both forms get one scale; a latent wider than the head must not change it."""
    config = tiny("r1")
    part = part_of(rng, config, [9], 1, by_rows=True)
    weights = random_weights(rng, config.attention)
    q = jnp.float32(rng.standard_normal((1, 1, 4, 24)))
    k, v = expand(part.pools["latent"][1, 1:4].reshape(12, -1)[:9], weights)
    scores = jnp.einsum("NH,NSH->NS", q[0, 0], k) * 0.7
    wanted = jnp.einsum("NS,NWS->NW", jax.nn.softmax(scores), v)
    found = mla.attend_absorbed(part, q, weights, 0.7)[0, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
