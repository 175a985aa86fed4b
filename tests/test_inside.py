"""What is seen inside a model is what the model computes with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import inside, model
from r1jax.layers import attention

TOKENS = jnp.arange(3, 60, 3)


@functools.cache
def compiled_look(config):
    return jax.jit(lambda params: inside.look(config, params, TOKENS))


@pytest.mark.parametrize("family", ["r1", "qwen3"])
def test_the_last_layer_reads_as_the_logits_do(tiny, tiny_params, family):
    config, params = tiny(family), tiny_params(family)
    seen = compiled_look(config)(params)
    plain = jax.jit(
        lambda params: model.logits(params, model.forward(config, params, TOKENS))
    )
    want = plain(params)
    got = jax.jit(functools.partial(inside.lens, config))(params, seen.residual[-1])
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    assert len(seen.residual) == config.layers + 1


@pytest.mark.parametrize("family", ["r1", "qwen3"])
def test_attention_is_shared_among_what_a_token_sees(tiny, tiny_params, family):
    config = tiny(family)
    seen = compiled_look(config)(tiny_params(family))
    heads = config.attention.heads
    assert seen.shares.shape == (config.layers, heads, len(TOKENS), len(TOKENS))
    np.testing.assert_allclose(seen.shares.sum(axis=-1), 1, atol=1e-5)
    assert not np.triu(seen.shares, k=1).any()


def test_values_weighed_by_the_shares_are_what_attention_gives(rng):
    q, k, v = (
        jnp.asarray(rng.normal(size=(7, heads, 4)), jnp.float32) for heads in (6, 2, 2)
    )
    mask = attention.visible(jnp.arange(7), 7)
    shares = attention.shares(q, k, mask, scale=0.5)
    each = jnp.repeat(v, 3, axis=1)  # three query heads to a key head
    got = jnp.einsum("NTS,SNW->TNW", shares, each)
    want = attention.attend(q, k, v, mask, scale=0.5)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_latent_and_the_choices_are_the_models(tiny, tiny_params):
    config, params = tiny("r1"), tiny_params("r1")
    seen = compiled_look(config)(params)
    assert seen.cached.shape[1:] == (len(TOKENS), config.attention.latent_dim)
    want = jax.jit(lambda p: model.chosen_experts(config, p, TOKENS))(params)
    np.testing.assert_array_equal(seen.chosen, want)
