import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.pallas.grouped_matmul import gpu as grouped
from tests.pallas.gpu import BF16, F32, close, each_form, normal


def multiply(rows, sizes, weights):
    """Multiplies row by row; `weights` are [E, D, G, F], G 1 or 2."""
    expert = np.searchsorted(np.cumsum(sizes), np.arange(len(rows)), side="right")
    out = np.zeros((len(rows), weights.shape[-1]), np.float32)
    for i, e in enumerate(expert[: sum(sizes)]):
        product = np.einsum("D,DGF->GF", rows[i], weights[e])
        gate = product[0] / (1 + np.exp(-product[0]))
        out[i] = product[0] if len(product) == 1 else gate * product[1]
    return out


def experts(rng, sizes, rows, width, columns, gates):
    """Gives rows, weights and scales; what no one owns is poison."""
    x = rng.standard_normal((rows, width), np.float32)
    x[sum(sizes) :] = np.nan
    weights = rng.standard_normal((len(sizes), width, gates, columns), np.float32)
    weights[np.array(sizes) == 0] = np.inf
    return x, weights


@each_form
@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "rows", "width", "columns"),
    [
        ([0, 17, 0, 5, 3, 0], 40, 48, 40),  # nothing divides, rows without an expert
        ([16, 16], 32, 32, 32),  # exact tiles
        ([0, 0, 1], 1, 16, 16),
        ([0, 0], 3, 16, 16),  # no expert has rows
    ],
)
def test_grouped_matmul_multiplies_each_row_by_its_expert(
    rng, interpret, sizes, rows, width, columns, gates
):
    x, weights = experts(rng, sizes, rows, width, columns, gates)
    call = jax.jit(functools.partial(grouped.grouped_matmul, interpret=interpret))
    got = call(
        x, np.array(sizes, np.int32), weights if gates == 2 else weights[:, :, 0]
    )
    close(got, multiply(x, sizes, weights))


@each_form
def test_grouped_matmul_scales_int8_columns(rng, interpret):
    sizes = [3, 0, 20]
    x, _ = experts(rng, sizes, 24, 32, 48, 2)
    weights = rng.integers(-127, 128, (3, 32, 2, 48)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, (3, 2, 48)).astype(np.float32)
    scales[1] = np.nan
    call = jax.jit(functools.partial(grouped.grouped_matmul, interpret=interpret))
    x = x.astype(BF16)
    got = call(x, np.array(sizes, np.int32), weights, scales)
    want = multiply(x.astype(np.float32), sizes, weights * scales[:, None])
    assert got.dtype == BF16
    close(got, want, BF16)


def test_grouped_matmul_does_not_depend_on_the_order_of_items(rng, monkeypatch):
    # A GPU runs them in any; an item that wrote another's rows would be seen here.
    cut = grouped.work_items
    monkeypatch.setattr(
        grouped, "work_items", lambda *a: jax.tree.map(lambda x: x[::-1], cut(*a))
    )
    sizes = [5, 17, 3, 9]
    x, weights = experts(rng, sizes, 40, 16, 16, 1)
    call = jax.jit(functools.partial(grouped.grouped_matmul, interpret=True))
    got = call(x, np.array(sizes, np.int32), weights[:, :, 0])
    close(got, multiply(x, sizes, weights))


@each_form
def test_grouped_matmul_reads_one_layer_of_many(rng, interpret):
    sizes = np.array([3, 0, 4], np.int32)
    x, weights = experts(rng, sizes, 8, 16, 32, 1)
    layers = np.full((3, *weights.shape), np.nan, np.float32)
    layers[1] = weights
    call = jax.jit(functools.partial(grouped.grouped_matmul, interpret=interpret))
    got = call(x, sizes, layers.reshape(9, 16, 32), first=jnp.int32(3))
    close(got, multiply(x, sizes, weights))


@pytest.mark.parametrize("tile", [16, 128])
def test_work_items_cover_each_row_once(rng, tile):
    rows = 300
    cut = jax.jit(lambda sizes: grouped.work_items(sizes, rows, tile))
    for _ in range(50):
        sizes = (rng.integers(0, 43, 7) * rng.integers(0, 2, 7)).astype(np.int32)
        items = cut(sizes)
        owner = np.full(rows, -1)
        for expert, start, end in zip(*map(np.asarray, items), strict=True):
            run = slice(start, min(end, start + tile))
            assert (owner[run] == -1).all()
            owner[run] = expert
        counts = [*sizes, rows - sizes.sum()]
        np.testing.assert_array_equal(owner, np.repeat(np.arange(8), counts))


@each_form
@pytest.mark.parametrize(
    ("gates", "real"), [(2, (2048, 7168, 2048)), (1, (16, 2048, 7168))]
)
def test_grouped_matmul_in_bfloat16(rng, interpret, gates, real):
    rows, width, columns = (48, 128, 96) if interpret else real
    sizes = rng.multinomial(rows - 5, [0.5, 0, 0.1, 0.2, 0.2])
    x, weights = normal(0, (rows, width)), normal(1, (5, width, gates, columns)) / 64
    shaped = weights if gates == 2 else weights[:, :, 0]
    call = jax.jit(functools.partial(grouped.grouped_matmul, interpret=interpret))
    got = call(x, jnp.asarray(sizes, jnp.int32), shaped)
    expert = np.repeat(np.arange(6), [*sizes, 5])
    want = jnp.zeros((rows, columns))
    for e in range(5):
        product = jnp.einsum("MD,DGF->GMF", x.astype(F32), weights[e].astype(F32))
        one = product[0] if gates == 1 else jax.nn.silu(product[0]) * product[1]
        want = jnp.where((expert == e)[:, None], one, want)
    close(got, want, BF16)
