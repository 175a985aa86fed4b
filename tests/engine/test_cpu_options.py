"""The compiler's options for a CPU: another library's products are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.engine import steps


@pytest.mark.parametrize("tokens", [1, 16, 17, 128, 129])
def test_every_number_of_tokens_compiles_to_the_same_product(rng, tokens):
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((24, 32), (32, 9)))
    program = jax.jit(jnp.matmul).lower(x, kernel)
    compiled = program.compile(compiler_options=steps.cpu_options(tokens))
    np.testing.assert_allclose(compiled(x, kernel), x @ kernel, atol=1e-5)


def test_an_option_that_the_compiler_has_not_is_left_out(monkeypatch):
    monkeypatch.setattr(steps, "_EIGEN", {"xla_cpu_there_is_no_such_option": ""})
    steps.eigen_option.cache_clear()
    try:
        assert steps.cpu_options(32) == steps.cpu_options(1) == steps.CPU_OPTIONS
    finally:
        steps.eigen_option.cache_clear()
