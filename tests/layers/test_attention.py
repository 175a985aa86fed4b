"""Attention by blocks, by rows and in shares, against the plain form and float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.engine.steps import CPU_OPTIONS
from r1jax.layers.attention import (
    attend,
    attend_blocks,
    attend_pages,
    attend_partial,
    attend_rows,
    finish,
    group,
    merge,
    ungroup,
    visible,
)

HEADS, KV_HEADS, WIDTH, VALUE = 6, 2, 8, 5
PAGE, COLUMNS = 4, 6
SCALE = 0.3


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def exact(q, k, v, positions, scale=SCALE):
    """Attention in float64, one query and one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros((*q.shape[:2], v.shape[-1]))
    for t, head in np.ndindex(*q.shape[:2]):
        seen, mine = positions[t] + 1, head // (q.shape[1] // k.shape[1])
        scores = k[:seen, mine] @ q[t, head] * scale
        weights = np.exp(scores - scores.max())
        out[t, head] = weights / weights.sum() @ v[:seen, mine]
    return out


def test_attend_equals_float64(rng):
    q, k, v = (normal(rng, 9, n, w) for n, w in ((6, 8), (2, 8), (2, 5)))
    mask = visible(jnp.arange(9), 9)
    y = attend(q, k, v, mask, scale=SCALE)
    np.testing.assert_allclose(y, exact(q, k, v, range(9)), atol=2e-6)


def test_large_scores_do_not_overflow(rng):
    q, k, v = (normal(rng, 9, 2, 8) * size for size in (100, 100, 1))
    y = attend(q, k, v, visible(jnp.arange(9), 9), scale=1.0)
    np.testing.assert_allclose(y, exact(q, k, v, range(9), 1.0), atol=1e-4)


def test_a_query_sees_what_is_not_after_itself():
    seen = visible(jnp.array([5, -1, 3]), 4, 2)
    assert seen.tolist() == [[True] * 4, [False] * 4, [True, True, False, False]]


def test_grouping_keeps_each_query_with_its_key_head(rng):
    q = normal(rng, 3, HEADS, WIDTH)
    grouped = group(q, KV_HEADS)
    for head, token in itertools.product(range(HEADS), range(3)):
        per_key = HEADS // KV_HEADS
        row = head % per_key * 3 + token
        np.testing.assert_array_equal(grouped[head // per_key, row], q[token, head])
    np.testing.assert_array_equal(ungroup(grouped, 3), q)


def test_shares_merge_in_any_order_to_one_pass(rng):
    q, k, v = normal(rng, 2, 3, 8) * 5, normal(rng, 2, 24, 8), normal(rng, 2, 5, 24)
    mask = jnp.asarray(rng.random((2, 3, 24)) < 0.6)
    mask = mask.at[:, :, 6:12].set(False)  # one share that nobody sees
    whole = finish(attend_partial(q, k, v, mask, SCALE), jnp.float32)
    shares = [
        attend_partial(q, k[:, cut], v[..., cut], mask[..., cut], SCALE)
        for cut in (slice(0, 6), slice(6, 12), slice(12, 23), slice(23, 24))
    ]
    for order in itertools.permutations(range(4)):
        joined = functools.reduce(merge, [shares[i] for i in order])
        np.testing.assert_allclose(finish(joined, jnp.float32), whole, atol=1e-6)
    pairs = merge(merge(shares[0], shares[1]), merge(shares[2], shares[3]))
    np.testing.assert_allclose(finish(pairs, jnp.float32), whole, atol=1e-6)


FORMS = {"rows": attend_rows, "pages": attend_pages, "blocks": None}


@functools.partial(jax.jit, static_argnums=0, compiler_options=CPU_OPTIONS)
def paged(form, q, keys, values, positions, table):
    """Attends over pages [P, K, Z, H] and [P, K, W, Z]."""
    if FORMS[form]:

        def page(number):
            return keys[number], values[number]

        sizes = {"tokens": PAGE, "kv_heads": KV_HEADS, "scale": SCALE}
        return FORMS[form](q, page, positions, table, **sizes)

    def block(i):
        pages = jax.lax.dynamic_slice_in_dim(table, 2 * i, 2, axis=1)
        k, v = jnp.moveaxis(keys[pages], 1, 2), jnp.moveaxis(values[pages], 1, 3)
        return k.reshape(*k.shape[:2], -1, WIDTH), v.reshape(*v.shape[:3], -1)

    sizes = {"tokens": 2 * PAGE, "kv_heads": KV_HEADS, "scale": SCALE}
    return attend_blocks(q, block, positions, **sizes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("queries", [1, 3, 7])
def test_paged_forms_equal_the_plain_one_at_every_length(rng, form, queries):
    full = PAGE * COLUMNS
    lengths = [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 1, full - 1, full, 0]
    rows = len(lengths)
    context = [normal(rng, rows, full, KV_HEADS, w) for w in (WIDTH, VALUE)]
    table = 1 + rng.permutation(rows * COLUMNS).reshape(rows, COLUMNS)
    last = np.asarray(lengths)[:, None]
    positions = last - queries + np.arange(queries)
    positions = np.where((positions < 0) | (last == 0), -1, positions)
    pools = []
    for name, entries in zip(("key", "value"), context, strict=True):
        pages = entries.reshape(rows, COLUMNS, PAGE, KV_HEADS, -1)
        pages = jnp.moveaxis(pages, 2, 3 if name == "key" else 4)
        pool = jnp.zeros((rows * COLUMNS + 1, *pages.shape[2:]))
        pools.append(pool.at[table].set(pages))
    q = normal(rng, rows, queries, HEADS, WIDTH)
    y = paged(form, q, *pools, jnp.asarray(positions), jnp.asarray(table))
    for row, at in enumerate(positions):
        real = at >= 0
        wanted = exact(q[row][real], context[0][row], context[1][row], at[real])
        np.testing.assert_allclose(y[row][real], wanted, atol=3e-6)
        assert np.isfinite(y[row]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("queries", [1, 7])
def test_entries_behind_a_context_may_be_anything(rng, form, queries):
    """Reused pages hold another sequence's entries, at worst NaN; and so may page 0."""
    keys, values = normal(rng, 5, 2, PAGE, WIDTH), normal(rng, 5, 2, VALUE, PAGE)
    length = PAGE + 2
    table = jnp.array([[2, 4, 0, 0, 0, 0]])
    positions = jnp.maximum(jnp.arange(length - queries, length), -1)[None]
    q = normal(rng, 1, queries, HEADS, WIDTH)
    clean = paged(form, q, keys, values, positions, table)
    for page in (0, 1, 3):
        keys, values = keys.at[page].set(jnp.nan), values.at[page].set(jnp.nan)
    keys = keys.at[4, :, 2:].set(jnp.nan)
    values = values.at[4, :, :, 2:].set(jnp.nan)
    poisoned = paged(form, q, keys, values, positions, table)
    real = np.asarray(positions[0]) >= 0
    np.testing.assert_array_equal(poisoned[0][real], clean[0][real])
