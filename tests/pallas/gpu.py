"""What the tests of the GPU kernels share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BF16, F32, INT8 = jnp.dtype("bfloat16"), jnp.dtype("float32"), jnp.dtype("int8")
TOLERANCE = {F32: 1e-5, BF16: 1e-2}

# A test runs in Pallas's interpreter, and on a GPU where there is one.
each_form = pytest.mark.parametrize(
    "interpret",
    [
        pytest.param(True, id="simulated"),
        pytest.param(
            False,
            id="compiled",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(
                    "__import__('jax').devices()[0].platform != 'gpu'",
                    reason="needs a GPU",
                ),
            ],
        ),
    ],
)


def close(got, want, dtype=F32):
    got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
    assert got.shape == want.shape
    scale = max(1.0, np.abs(want).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[dtype] * scale)


def normal(seed, shape, dtype=BF16):
    return jax.random.normal(jax.random.key(seed), shape, F32).astype(dtype)


def softmaxed(scores, seen):
    scores = jnp.where(seen, scores, -1e30)
    return jnp.where(seen, jax.nn.softmax(scores, axis=-1), 0)


def attend_rows(q, keys, values, scale):
    """Attends with [N, H] to keys [S, K, H] and values [S, K, W]."""
    if not len(keys):
        return np.zeros((len(q), values.shape[-1]), np.float32)
    grouped_q = q.reshape(keys.shape[1], -1, q.shape[-1])
    scores = np.einsum("KGH,SKH->KGS", grouped_q, keys) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("KGS,SKW->KGW", weights, values).reshape(len(q), -1)
