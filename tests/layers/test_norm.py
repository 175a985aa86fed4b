"""RMSNorm against float64, and the order in which it rounds."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax.layers.norm import rms_norm


def exact(x, eps):
    wide = np.asarray(x, np.float64)
    return wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + eps)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_equals_float64_at_every_size_of_input(rng, size):
    x = (rng.standard_normal((5, 3, 96)) * size).astype(np.float32)
    scale = rng.standard_normal(96).astype(np.float32)
    y = rms_norm(jnp.asarray(x), jnp.asarray(scale), 1e-6)
    np.testing.assert_allclose(y, exact(x, 1e-6) * scale, rtol=2e-6, atol=1e-12)


def test_eps_is_added_to_the_mean_square_within_the_root():
    y = rms_norm(jnp.full((1, 4), 1e-3), jnp.ones(4), 3e-6)
    np.testing.assert_allclose(y, 0.5, rtol=1e-6)


def test_zeros_stay_zeros():
    assert not rms_norm(jnp.zeros((2, 8)), jnp.ones(8), 1e-6).any()


def test_normalises_wide_and_rounds_before_it_scales(rng):
    x = rng.standard_normal((64, 128)).astype(ml_dtypes.bfloat16)
    scale = rng.standard_normal(128).astype(ml_dtypes.bfloat16)
    y = np.asarray(rms_norm(jnp.asarray(x), jnp.asarray(scale), 1e-6))
    rounded = exact(x, 1e-6).astype(ml_dtypes.bfloat16)
    assert y.dtype == ml_dtypes.bfloat16
    assert np.mean(y == rounded * scale) > 0.999
    late = (exact(x, 1e-6) * scale.astype(np.float64)).astype(ml_dtypes.bfloat16)
    assert np.mean(y == late) < 0.9
