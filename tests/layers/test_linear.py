"""Few-row products, turned kernels, and projections over several axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.engine.steps import CPU_OPTIONS
from r1jax.layers.linear import FEW_ROWS, Projection, Turned, matvecs, project

ROWS = range(1, FEW_ROWS + 1)
OUTPUTS = (1, 7, 13, 24, 30, 100)  # primes, and sizes that few blocks divide


def matrices(rng, rows, inputs, outputs):
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    turned = rng.standard_normal((outputs, inputs)).astype(np.float32)
    return x, turned


@pytest.mark.parametrize("options", [{}, CPU_OPTIONS], ids=["strict", "fast"])
def test_matvecs_equal_a_matrix_product(rng, options):
    cases = {(n, o): matrices(rng, n, 40, o) for n in ROWS for o in OUTPUTS}
    compiled = jax.jit(
        lambda cases: {name: matvecs(*case) for name, case in cases.items()},
        compiler_options=options,
    )
    for name, y in compiled(cases).items():
        x, turned = cases[name]
        exact = x.astype(np.float64) @ turned.T.astype(np.float64)
        np.testing.assert_allclose(y, exact, atol=2e-5, err_msg=str(name))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_turned_kernel_gives_the_same_product(rng, dtype):
    cases = {n: matrices(rng, n, 24, 18) for n in (1, 3, 8, 9, 31, 32, 70)}

    @jax.jit
    def both(x, turned):
        x, turned = x.astype(dtype), turned.astype(dtype)
        return project(x, turned.T), project(x, Turned(turned))

    for name, case in cases.items():
        plain, turned = both(*case)
        assert plain.dtype == turned.dtype == dtype
        tolerance = (
            {"atol": 1e-4} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 0.1}
        )
        np.testing.assert_allclose(
            turned.astype(np.float32),
            plain.astype(np.float32),
            err_msg=str(name),
            **tolerance,
        )


@pytest.mark.parametrize("rows", [4, 16, 64])
def test_bfloat16_sums_come_out_as_float32_where_asked(rng, rows):
    x, turned = (jnp.asarray(m, jnp.bfloat16) for m in matrices(rng, rows, 512, 12))
    exact = np.asarray(x, np.float64) @ np.asarray(turned, np.float64).T
    for kernel in (turned.T, Turned(turned)):
        y = project(x, kernel, jnp.float32)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, exact, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "inputs", "pattern"),
    [((6, 4, 5), 1, "TD,DNH->TNH"), ((4, 5, 6), 2, "TNH,NHD->TD")],
)
def test_a_projection_sums_the_first_axes_and_adds_its_bias(
    rng, shape, inputs, pattern
):
    layer = Projection(shape, ("a", "b", "c"), inputs=inputs, bias=True)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(shape[inputs:]), jnp.float32)
    x = jnp.asarray(rng.standard_normal((7, *shape[:inputs])), jnp.float32)
    y = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(
        y, np.einsum(pattern, x, kernel) + np.asarray(bias), atol=1e-5
    )
