"""The search without a sort against the sort."""

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.engine.sampling import RowSampling, choose_plain
from r1jax.engine.search import search

ROWS = 16


def drawn(rng) -> RowSampling:
    def some(*values):
        return jnp.asarray(rng.choice(values, ROWS), jnp.float32)

    return RowSampling(
        temperature=some(0.3, 0.6, 1.0, 1.7),
        top_p=some(0.1, 0.5, 0.95, 1.0),
        min_p=some(0.0, 0.0, 0.05, 0.5),
        presence=some(0.0),
        frequency=some(0.0),
        repetition=some(1.0),
        top_k=jnp.asarray(rng.choice([0, 0, 1, 5, 80], ROWS), jnp.int32),
        seed=jnp.zeros((ROWS, 2), jnp.uint32),
    )


@pytest.mark.parametrize("kind", ["plain", "tied", "masked", "zeros"])
@pytest.mark.parametrize(
    "vocabulary", [7, pytest.param(65, marks=pytest.mark.slow), 1000]
)
def test_the_search_finds_the_token_of_the_sort(rng, vocabulary, kind):
    for scale in (0.1, 1.0, 4.0):
        logits = rng.normal(size=(ROWS, vocabulary)).astype(np.float32) * scale
        if kind == "tied":
            logits = np.round(2 * logits) / 2
        elif kind == "masked":
            logits[:, 1:][:, rng.random(vocabulary - 1) < 0.4] = -np.inf
        elif kind == "zeros":
            logits *= rng.choice([0.0, -0.0, 1.0], logits.shape)
        rows, uniform = drawn(rng), jnp.asarray(rng.random(ROWS), jnp.float32)
        found = search(jnp.asarray(logits), rows, uniform)
        np.testing.assert_array_equal(
            found, choose_plain(jnp.asarray(logits), rows, uniform)
        )


def test_the_ends_of_the_draw_are_the_first_token_and_the_last_one_kept():
    logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]] * 2, jnp.float32))
    rows = RowSampling(
        **{name: jnp.ones(2) for name in ("temperature", "top_p", "repetition")},
        **{name: jnp.zeros(2) for name in ("min_p", "presence", "frequency")},
        top_k=jnp.asarray([3, 0], jnp.int32),
        seed=jnp.zeros((2, 2), jnp.uint32),
    )
    almost = np.nextafter(np.float32(1), np.float32(0))
    assert search(logits, rows, jnp.zeros(2)).tolist() == [1, 1]
    assert search(logits, rows, jnp.full(2, almost)).tolist() == [2, 0]
