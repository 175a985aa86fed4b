"""Operations with gradients of their own equal plain ones, and so do the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.layers import gradients

EPS = 1e-6


def plain_norm(x, scale):
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = (wide * jax.lax.rsqrt(mean_square + EPS)).astype(x.dtype)
    return normed * jnp.broadcast_to(scale, x.shape)


def plain_gated(hidden):
    return jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]


CASES = {
    "kernel of one axis each": (
        lambda x, k: gradients.product(x, k, 1),
        lambda x, k: jnp.tensordot(x, k, 1),
        [(7, 12), (12, 5)],
    ),
    "kernel of two axes out": (
        lambda x, k: gradients.product(x, k, 1),
        lambda x, k: jnp.tensordot(x, k, 1),
        [(7, 12), (12, 3, 4)],
    ),
    "kernel of two axes in": (
        lambda x, k: gradients.product(x, k, 2),
        lambda x, k: jnp.tensordot(x, k, 2),
        [(7, 3, 4), (3, 4, 5)],
    ),
    "bias": (
        gradients.add_bias,
        lambda y, bias: y + bias[None],
        [(7, 3, 4), (3, 4)],
    ),
    "gated": (gradients.gated, plain_gated, [(7, 2, 12)]),
    "gated blocks": (gradients.gated, plain_gated, [(3, 7, 2, 12)]),
    "norm": (
        lambda x, s: gradients.rms_norm(x, s, EPS),
        plain_norm,
        [(7, 12), (12,)],
    ),
    "norm of heads": (
        lambda x, s: gradients.rms_norm(x, s, EPS),
        plain_norm,
        [(7, 3, 12), (12,)],
    ),
}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_the_plain_form(case, dtype, error, rng):
    ours, plain, shapes = case
    args = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    value, back = jax.vjp(ours, *args)
    wanted, plain_back = jax.vjp(plain, *args)
    slope = jnp.asarray(rng.standard_normal(value.shape), value.dtype)
    found = [value, *back(slope)]
    for one, other in zip(found, [wanted, *plain_back(slope)], strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        one, other = (np.asarray(a, np.float32) for a in (one, other))
        np.testing.assert_allclose(one, other, atol=error * np.abs(other).max())


def test_gradients_for_other_platforms_join_no_axes():
    """A mesh may have cut them."""

    def slope(x, kernel):
        return jax.grad(lambda k: gradients.product(x, k, 1).sum())(kernel)

    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(7, 12), (12, 3, 4)]]
    lowered = {
        name: jax.jit(slope).trace(*args).lower(lowering_platforms=(name,)).as_text()
        for name in ("cpu", "tpu")
    }
    joined = "tensor<12x12xf32>"
    assert joined in lowered["cpu"]
    assert joined not in lowered["tpu"]
