"""The three ways to compute experts give one answer, however tokens are spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.engine.steps import CPU_OPTIONS
from r1jax.layers.linear import Turned
from r1jax.layers.moe import (
    TILE,
    Moe,
    experts_all,
    experts_sorted,
    experts_used,
)
from r1jax.presets import preset

EXPERTS, WIDTH, HIDDEN, PER_TOKEN = 6, 16, 8, 2
FORMS = {"used": experts_used, "sorted": experts_sorted}


@pytest.fixture(scope="module")
def kernels():
    rng = np.random.default_rng(1)
    gate_up = rng.standard_normal((EXPERTS, WIDTH, 2, HIDDEN)) / 4
    down = rng.standard_normal((EXPERTS, HIDDEN, WIDTH)) / 3
    return jnp.float32(gate_up), jnp.float32(down)


def turned(gate_up, down):
    flat = gate_up.reshape(EXPERTS, WIDTH, -1)
    return Turned(jnp.swapaxes(flat, 1, 2)), Turned(jnp.swapaxes(down, 1, 2))


def exact(x, gate_up, down, chosen, weights):
    """Each token and each of its experts by itself, in float64."""
    x, gate_up, down = (np.asarray(a, np.float64) for a in (x, gate_up, down))
    out = np.zeros_like(x)
    for t, slot in np.ndindex(*chosen.shape):
        gate, up = np.einsum("D,DGF->GF", x[t], gate_up[chosen[t, slot]])
        hidden = gate / (1 + np.exp(-gate)) * up
        out[t] += weights[t, slot] * (hidden @ down[chosen[t, slot]])
    return out


def spread(rng, kind, tokens):
    """Two different experts for each token."""
    if kind == "one":  # all to the last one, the rest to the first
        return np.tile([EXPERTS - 1, 0], (tokens, 1))
    if kind == "idle":  # the first and the last two stay idle
        return np.stack([rng.permutation(3)[:PER_TOKEN] + 1 for _ in range(tokens)])
    return np.stack([rng.permutation(EXPERTS)[:PER_TOKEN] for _ in range(tokens)])


@functools.partial(jax.jit, compiler_options=CPU_OPTIONS)
def fast(x, kernels, routes):
    return {name: form(x, *kernels, routes) for name, form in FORMS.items()}


@jax.jit
def strict(x, kernels, routes):
    forms = FORMS | {"all": experts_all}
    return {name: form(x, *kernels, routes) for name, form in forms.items()}


@pytest.mark.parametrize("tokens", [1, 8, TILE, 2 * TILE + 5])
@pytest.mark.parametrize("kind", ["any", "one", "idle"])
def test_forms_are_one_function(rng, kernels, tokens, kind):
    x = jnp.float32(rng.standard_normal((tokens, WIDTH)))
    chosen = spread(rng, kind, tokens)
    weights = rng.random((tokens, PER_TOKEN))
    routes = jnp.int32(chosen), jnp.float32(weights)
    wanted = exact(x, *kernels, chosen, weights)
    answers = strict(x, kernels, routes)
    answers |= {f"turned {n}": y for n, y in fast(x, turned(*kernels), routes).items()}
    assert len(answers) == 5
    for name, y in answers.items():
        np.testing.assert_allclose(y, wanted, atol=5e-6, err_msg=name)


def test_the_last_tile_of_an_expert_does_not_touch_the_next_ones(rng, kernels):
    """Every expert but one has one row more than fills its tiles."""
    chosen = np.repeat(np.arange(EXPERTS), TILE + 1)
    chosen = chosen[rng.permutation(len(chosen))][:, None]
    weights = np.ones(chosen.shape)
    x = jnp.float32(rng.standard_normal((len(chosen), WIDTH)))
    y = jax.jit(experts_sorted)(x, *kernels, (jnp.int32(chosen), jnp.float32(weights)))
    np.testing.assert_allclose(y, exact(x, *kernels, chosen, weights), atol=5e-6)


def test_few_tokens_read_only_the_experts_they_chose(rng, kernels):
    gate_up, down = (k.at[jnp.array([0, 3])].set(jnp.nan) for k in kernels)
    x = jnp.float32(rng.standard_normal((3, WIDTH)))
    routes = jnp.int32([[1, 2], [2, 4], [5, 1]]), jnp.ones((3, 2))
    assert jnp.isfinite(experts_used(x, gate_up, down, routes)).all()


def test_a_token_that_is_not_a_number_stays_alone(rng, kernels):
    """Padding may hold anything; its neighbours must not notice."""
    x = jnp.float32(rng.standard_normal((6, WIDTH)))
    routes = jnp.int32(spread(rng, "any", 6)), jnp.ones((6, PER_TOKEN))
    clean, poisoned = (strict(v, kernels, routes) for v in (x, x.at[2].set(jnp.nan)))
    others = np.arange(6) != 2
    for name, y in poisoned.items():
        np.testing.assert_array_equal(y[others], clean[name][others], err_msg=name)


def test_shared_experts_serve_every_token_unweighted(rng, tiny_params):
    params = jax.tree.map(lambda leaf: leaf[0], tiny_params("r1")["moe_layers"]["moe"])
    config, width = preset("tiny-r1").moe, 64
    x = jnp.float32(rng.standard_normal((5, width)))
    apply = jax.jit(lambda p: Moe(config, width).apply({"params": p}, x))
    routed = apply(params | {"shared": jax.tree.map(jnp.zeros_like, params["shared"])})
    gate_up = params["shared"]["gate_up"]["kernel"]
    gate, up = jnp.einsum("TD,DGF->GTF", x, gate_up)
    shared = (jax.nn.silu(gate) * up) @ params["shared"]["down"]["kernel"]
    np.testing.assert_allclose(apply(params) - routed, shared, atol=1e-5)
