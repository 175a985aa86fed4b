"""Pages: where a token's entries go, and how a step's flat tokens are laid out."""

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import cache
from r1jax.cache import Batch, Context, Geometry, flat, make_pools
from r1jax.presets import preset
from r1jax.target import PLAIN

PAGE = 4
G = Geometry(decodes=3, chunks=2, chunk_tokens=5)
# Two of three decodes and both chunks are used; the second chunk is not full.
TABLE = [[7, 2, 0], [0, 0, 0], [1, 5, 3], [4, 6, 0], [8, 0, 0]]
POSITIONS = [5, -1, 11, 3, 4, 5, 6, 7, 0, 1, -1, -1, -1]


def batch_of(geometry=G, positions=POSITIONS, table=TABLE, target=PLAIN):
    return Batch(
        tokens=jnp.zeros(geometry.tokens, jnp.int32),
        positions=jnp.asarray(positions),
        page_table=jnp.asarray(table),
        lengths=jnp.zeros(geometry.rows, jnp.int32),
        geometry=geometry,
        target=target,
    )


def test_a_geometry_counts_rows_and_tokens():
    assert (G.rows, G.tokens) == (5, 13)
    rows = batch_of().token_rows().tolist()
    assert rows == [0, 1, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    only_decodes = Geometry(2, 0, 0)
    assert batch_of(only_decodes, [1, 2], [[1], [2]]).token_rows().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "dtype", "each"),
    [
        ("r1", "bfloat16", 61 * 576 * 2),
        ("r1-0528-qwen3-8b", "bfloat16", 147_456),
        ("distill-qwen-1.5b", "float32", 28 * 2 * 2 * 128 * 4),
    ],
)
def test_bytes_of_a_token_are_those_of_the_pools(name, dtype, each):
    config = preset(name)
    assert cache.page_bytes(config, 64, dtype) == 64 * each
    shapes = cache.pool_shapes(config, 64)
    values = sum(int(np.prod(shape)) for shape in shapes.values())
    assert values * config.layers * jnp.dtype(dtype).itemsize == 64 * each


@pytest.mark.parametrize("family", ["r1", "qwen2"])
def test_tokens_are_written_to_their_page_and_nowhere_else(rng, tiny, family):
    config = tiny(family)
    pools = {
        name: jnp.full_like(pool, -9.0)
        for name, pool in make_pools(config, 10, PAGE, jnp.float32).items()
    }
    width = {"latent": 40, "key": 16, "value": 16}
    heads = {"latent": 1, "key": 2, "value": 2}
    entries = {
        name: jnp.float32(rng.standard_normal((G.tokens, heads[name], width[name])))
        for name in pools
    }
    batch = batch_of()
    written = Context(pools, jnp.int32(1), batch).write(**entries).pools
    for name, pool in written.items():
        wanted = np.full(pool.shape, -9.0, np.float32)
        for t, row in enumerate(batch.token_rows().tolist()):
            if POSITIONS[t] < 0:
                continue
            page, at = TABLE[row][POSITIONS[t] // PAGE], POSITIONS[t] % PAGE
            place = wanted[1, page]
            (place[:, :, at] if name == "value" else place[:, at])[:] = entries[name][t]
        found = np.array(pool)
        found[1, 0] = wanted[1, 0]  # padding writes there
        np.testing.assert_array_equal(found, wanted, err_msg=name)


def test_pools_keep_their_dtype(tiny):
    pools = make_pools(tiny("qwen2"), 3, PAGE, jnp.bfloat16)
    g = Geometry(1, 0, 0)
    context = Context(pools, jnp.int32(0), batch_of(g, [0], [[1]]))
    wide = jnp.ones((1, 2, 16))
    assert context.write(key=wide, value=wide).pools["key"].dtype == jnp.bfloat16


def test_parts_take_the_flat_step_apart_and_flat_joins_it(tiny):
    pools = make_pools(tiny("qwen2"), 10, PAGE, jnp.float32)
    decodes, chunks = Context(pools, jnp.int32(0), batch_of()).parts()
    numbers = jnp.arange(G.tokens)
    assert decodes.rows(numbers).tolist() == [[0], [1], [2]]
    assert chunks.rows(numbers).tolist() == [[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert decodes.page_table.tolist() == TABLE[:3]
    assert chunks.page_table.tolist() == TABLE[3:]
    assert chunks.positions.tolist() == [[3, 4, 5, 6, 7], [0, 1, -1, -1, -1]]
    joined = flat([part.rows(numbers) for part in (decodes, chunks)])
    assert joined.tolist() == numbers.tolist()


def test_a_step_without_chunks_has_one_part(tiny):
    pools = make_pools(tiny("qwen2"), 10, PAGE, jnp.float32)
    alone = batch_of(Geometry(2, 0, 0), [1, 2], [[1], [2]])
    (part,) = Context(pools, jnp.int32(0), alone).parts()
    assert part.positions.tolist() == [[1], [2]]


def test_blocks_are_a_rows_pages_in_order_and_end_with_the_table(rng, tiny):
    """Three columns in blocks of two: the second block ends in the page of nobody."""
    pools = make_pools(tiny("qwen2"), 10, PAGE, jnp.float32)
    pools = {n: jnp.float32(rng.standard_normal(p.shape)) for n, p in pools.items()}
    decodes, _ = Context(pools, jnp.int32(1), batch_of()).parts()
    for index, columns in ((0, [1, 5]), (1, [3, 0])):
        block = decodes.block("key", jnp.int32(index), 2)
        np.testing.assert_array_equal(block[2], pools["key"][1, jnp.array(columns)])
    page = decodes.page("value", jnp.int32(5))
    np.testing.assert_array_equal(page, pools["value"][1, 5])
