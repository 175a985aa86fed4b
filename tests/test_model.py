"""Every way to run the model gives the hidden states of the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model, parameters
from r1jax.cache import Batch, Geometry, make_pools
from r1jax.engine.steps import CPU_OPTIONS
from r1jax.layers import paged
from r1jax.target import CPU, PLAIN

FAMILIES = ("r1", "qwen2", "llama", "qwen3")
PAGE, COLUMNS = 8, 11
G = Geometry(decodes=2, chunks=1, chunk_tokens=20)
PAGES = [
    [5, 1, 9, 12, 3, 14, 16, 18, 20, 22, 24],
    [8, 2, 11, 4, 13, 6, 10, 15, 17, 0, 0],
]
LENGTHS = (85, 66)  # past the toys' original rope length


@functools.cache
def sequences():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 512, length) for length in LENGTHS]


@functools.cache
def compiled_forward(config):
    return jax.jit(lambda params, tokens: model.forward(config, params, tokens))


@functools.cache
def compiled_step(config, options=()):
    """The step, donating its pools."""
    return jax.jit(
        lambda params, pools, batch: model.step(config, params, pools, batch),
        donate_argnums=1,
        compiler_options=dict(options),
    )


def whole(config, params, tokens):
    """Hidden states of one sequence without a cache, padded to one compiled length."""
    padded = np.zeros(96, np.int32)
    padded[: len(tokens)] = tokens
    hidden = compiled_forward(config)(params, jnp.asarray(padded))
    return np.asarray(hidden)[: len(tokens)]


def schedule():
    """Steps of (decodes, chunk): rows of (sequence, start, count).

    The first prompt comes in three pieces; the second beside the first one's decodes;
    then both decode to their ends.
    """
    steps = [([], (0, 0, 20)), ([], (0, 20, 20)), ([], (0, 40, 7))]
    steps += [([(0, 47)], (1, 0, 20)), ([(0, 48)], (1, 20, 13))]
    for n in range(33):
        steps.append(([(0, 49 + n), (1, 33 + n)], None))
    steps += [([(0, 82 + n)], None) for n in range(3)]
    return steps


def batch_of(decodes, chunk, *, target):
    tokens, positions = np.zeros(G.tokens, np.int32), np.full(G.tokens, -1)
    table, lengths = np.zeros((G.rows, COLUMNS), np.int32), np.zeros(G.rows, np.int32)
    rows = [(i, i, who, at, 1) for i, (who, at) in enumerate(decodes)]
    rows += [(G.decodes, G.decodes, *chunk)] if chunk else []
    for row, place, who, start, count in rows:
        cut = slice(start, start + count)
        tokens[place : place + count] = sequences()[who][cut]
        positions[place : place + count] = np.arange(start, start + count)
        table[row], lengths[row] = PAGES[who], start + count
    arrays = (jnp.asarray(a) for a in (tokens, positions, table, lengths))
    return Batch(*arrays, geometry=G, target=target), rows


def poisoned_pools(config):
    """Pools whose pages hold NaN where they belong to nobody."""
    pools = make_pools(config, 26, PAGE, jnp.float32)
    nobody = jnp.asarray(
        [p for p in range(26) if p not in {*PAGES[0], *PAGES[1]}] + [0]
    )
    return {n: pool.at[:, nobody].set(jnp.nan) for n, pool in pools.items()}, nobody


def served(config, params, *, target, options=(), pools=None):
    """Hidden states of both sequences, step by step; and the pools."""
    pools = make_pools(config, 26, PAGE, jnp.float32) if pools is None else pools
    hidden = [np.full((length, config.width), np.inf) for length in LENGTHS]
    run = compiled_step(config, options)
    for decodes, chunk in schedule():
        batch, rows = batch_of(decodes, chunk, target=target)
        out, pools = run(params, pools, batch)
        for _, place, who, start, count in rows:
            hidden[who][start : start + count] = out[place : place + count]
    return hidden, pools


@pytest.fixture
def several_blocks(monkeypatch):
    """Makes blocks of two pages, so that contexts have many and the last is short."""
    monkeypatch.setattr(paged, "BLOCK_TOKENS", 2 * PAGE)


@pytest.mark.parametrize("family", ["r1", "qwen3"])
@pytest.mark.parametrize("form", ["blocks", "rows on a CPU"])
def test_a_cache_fed_in_pieces_equals_the_whole_sequence(
    tiny, tiny_params, several_blocks, family, form
):
    """And NaN in pages that belong to nobody is neither seen nor written over."""
    config, params = tiny(family), tiny_params(family)
    wanted = [whole(config, params, tokens) for tokens in sequences()]
    pools, nobody = poisoned_pools(config)
    if form == "blocks":
        hidden, pools = served(config, params, target=PLAIN, pools=pools)
    else:
        options = tuple(CPU_OPTIONS.items())
        arranged = model.for_cpu(params)
        hidden, pools = served(
            config, arranged, target=CPU, options=options, pools=pools
        )
    for found, want in zip(hidden, wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
    for name, pool in pools.items():
        untouched = pool[:, nobody[:-1]]  # all but page 0, which takes padding
        assert jnp.isnan(untouched).all(), name


@pytest.mark.parametrize("family", ["r1", "qwen3"])
@pytest.mark.parametrize("target", [PLAIN, CPU], ids=["blocks", "rows on a CPU"])
def test_a_step_may_give_one_token_of_each_row(tiny, tiny_params, family, target):
    """The same hidden states and the same cache, with less of the last layer."""
    config, params = tiny(family), tiny_params(family)
    params = model.for_cpu(params) if target == CPU else params
    batch, _ = batch_of([(0, 0)], (1, 0, 17), target=target)
    last = jnp.asarray([0, 1, G.decodes + 16])  # the second row is padding
    results = []
    for wanted in (None, last):
        pools = make_pools(config, 26, PAGE, jnp.float32)
        results.append(
            jax.jit(functools.partial(model.step, config))(params, pools, batch, wanted)
        )
    (every, pools), (some, same) = results
    rows = jnp.asarray([0, 2])
    np.testing.assert_allclose(some[rows], every[last[rows]], atol=1e-5)
    for name, pool in pools.items():  # page 0 takes the writes of padding
        np.testing.assert_allclose(same[name][:, 1:], pool[:, 1:], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_for_cpu_can_be_undone_and_changes_no_value(tiny, tiny_params, family):
    config, params = tiny(family), tiny_params(family)
    arranged = model.for_cpu(params)
    back = model.from_cpu(arranged, parameters.abstract(config))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    tokens = sequences()[0]
    scanned, walked = whole(config, params, tokens), whole(config, arranged, tokens)
    np.testing.assert_allclose(walked, scanned, atol=2e-5 * np.abs(scanned).max())
    few = jnp.asarray(scanned[-3:])
    logits = [model.logits(tree, few) for tree in (params, arranged)]
    np.testing.assert_allclose(*logits, atol=1e-5 * np.abs(logits[0]).max())
    assert logits[0].dtype == logits[1].dtype == jnp.float32


def test_a_later_token_changes_nothing_before_it(tiny, tiny_params):
    config, params = tiny("r1"), tiny_params("r1")
    tokens = sequences()[0].copy()
    before = whole(config, params, tokens)
    tokens[50] += 1
    after = whole(config, params, tokens)
    np.testing.assert_array_equal(after[:50], before[:50])
    assert np.abs(after[50] - before[50]).max() > 1e-2
    assert np.abs(after[51:] - before[51:]).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_word_order_and_every_layer_matter(tiny, tiny_params, family):
    config, params = tiny(family), tiny_params(family)
    tokens = sequences()[1]
    last = whole(config, params, tokens)[-1]
    swapped = tokens.copy()
    swapped[[3, 40]] = tokens[[40, 3]]
    assert np.abs(whole(config, params, swapped)[-1] - last).max() > 1e-3
    for group, size in model.group_sizes(config).items():
        for layer in range(size):
            without = jax.tree.map(
                lambda leaf, i=layer: leaf.at[i].set(0), params[group]
            )
            changed = whole(config, params | {group: without}, tokens)[-1]
            assert np.abs(changed - last).max() > 1e-3, (group, layer)


@pytest.mark.parametrize("family", ["r1", "qwen2"])
def test_a_step_makes_no_second_pool(tiny, tiny_params, family):
    """The donated pools ride through the scan in place."""
    config = tiny(family)
    pools = make_pools(config, 4096, PAGE, jnp.float32)
    size = sum(pool.nbytes for pool in pools.values())
    batch, _ = batch_of([(0, 3)], (1, 0, 20), target=PLAIN)
    lowered = compiled_step(config).lower(tiny_params(family), pools, batch)
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < min(p.nbytes for p in pools.values())
