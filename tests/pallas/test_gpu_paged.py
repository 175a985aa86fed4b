import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import REFERENCE, Backend
from r1jax.pallas.gqa_attention.cases import CASES as GQA
from r1jax.pallas.mla_attention.cases import CASES as MLA
from r1jax.pallas.paged import entries
from r1jax.pallas.paged import gpu as paged
from tests.pallas import paged_steps
from tests.pallas.gpu import BF16, F32, attend_rows, close, each_form, normal, softmaxed

ONE_KEY_HEAD = "latent"


LENGTHS = [0, 1, 8, 9, 40, 33]


def cache(rng, lengths, page, kv_heads, width, draw):
    """Gives a pool of two layers [2, P, K, Z, E], a page table, and the entries."""
    places = -(-max(lengths) // page)
    pages = 1 + places * len(lengths)
    pool = np.full((2, pages, kv_heads, page, width), np.nan, np.float32)
    table = np.zeros((len(lengths), places), np.int32)
    free = iter(rng.permutation(np.arange(1, pages)))
    entries = []
    for row, length in enumerate(lengths):
        entries.append(draw((length, kv_heads, width)).astype(np.float32))
        for place, at in enumerate(range(0, length, page)):
            table[row, place] = next(free)
            some = np.moveaxis(entries[-1][at : at + page], 0, 1)
            pool[1, table[row, place], :, : some.shape[1]] = some
    return pool, table, entries


SMALL = paged.Blocks(heads=16, tokens=16, splits=2, warps=4, stages=3)


@each_form
@pytest.mark.parametrize(
    ("kv_heads", "heads", "width", "stored", "value_width", "blocks"),
    [
        (ONE_KEY_HEAD, 20, 24, 32, 16, SMALL),  # 24 = 16 + 8, in entries padded to 32
        (ONE_KEY_HEAD, 4, 48, 48, 40, None),
        (2, 4, 16, 32, None, SMALL),
        (2, 40, 24, 48, None, None),
    ],
)
def test_paged_decode_attends_to_its_own_pages(
    rng, interpret, kv_heads, heads, width, stored, value_width, blocks
):
    latent = kv_heads == ONE_KEY_HEAD
    keys = 1 if latent else kv_heads
    pool, table, entries = cache(rng, LENGTHS, 8, keys, stored, rng.standard_normal)
    if latent:
        pool[..., width:] = np.nan
    q = rng.standard_normal((len(LENGTHS), heads, width), np.float32)
    call = jax.jit(
        functools.partial(
            paged.decode,
            scale=0.2,
            value_width=value_width,
            blocks=blocks,
            interpret=interpret,
        )
    )
    lengths = np.array(LENGTHS, np.int32)
    got = call(q, pool[:, :, 0] if latent else pool, jnp.int32(1), table, lengths)
    value = slice(0, value_width) if latent else slice(width, None)
    want = [
        attend_rows(row, e[..., :width], e[..., value], 0.2)
        for row, e in zip(q, entries, strict=True)
    ]
    close(got, np.stack(want))


@each_form
def test_paged_partials_of_two_halves_merge_to_the_whole(rng, interpret):
    pool, table, entries = cache(rng, [32, 32], 8, 1, 32, rng.standard_normal)
    q = rng.standard_normal((2, 4, 32), np.float32)
    call = jax.jit(
        functools.partial(
            paged.decode, scale=0.2, value_width=16, partial=True, interpret=interpret
        )
    )
    halves = [
        call(q, pool[:, :, 0], jnp.int32(1), table[:, i : i + 2], np.array(n, np.int32))
        for i, n in ((0, [16, 16]), (2, [16, 0]))
    ]
    both = jax.tree.map(lambda *x: jnp.stack(x), *halves)
    assert both.peak.dtype == both.total.dtype == both.mixed.dtype == jnp.float32
    want = [
        attend_rows(q[b], entries[b][:n], entries[b][:n, :, :16], 0.2)
        for b, n in enumerate((32, 16))
    ]
    close(paged.finish(paged.merge(both, 0)), np.stack(want))


@each_form
@pytest.mark.parametrize("kv_heads", [ONE_KEY_HEAD, 2])
def test_paged_decode_scales_int8_entries(rng, interpret, kv_heads):
    latent = kv_heads == ONE_KEY_HEAD
    keys, parts = (1, 1) if latent else (kv_heads, 2)
    pool, table, entries = cache(
        rng, LENGTHS, 8, keys, 64, lambda shape: rng.integers(-127, 128, shape)
    )
    stored = np.where(np.isnan(pool), 99, pool).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, (2, pool.shape[1], parts * keys, 8))
    scales = scales.astype(np.float32)
    q = rng.standard_normal((len(LENGTHS), 4, 64 if latent else 32), np.float32)
    lengths = np.array(LENGTHS, np.int32)
    want = []
    for row, (length, entry) in enumerate(zip(LENGTHS, entries, strict=True)):
        at = np.arange(length)
        real = scales[1, table[row, at // 8], :, at % 8].reshape(length, parts, keys)
        split = entry.reshape(length, keys, parts, 64 // parts)
        split = split * np.moveaxis(real, 1, 2)[..., None]
        key, value = split[:, :, 0], split[:, :, -1]
        want.append(attend_rows(q[row], key, value[..., :32], 0.2))
    got = jax.jit(
        functools.partial(
            paged.decode,
            scale=0.2,
            value_width=32 if latent else None,
            interpret=interpret,
        )
    )(
        q,
        stored[:, :, 0] if latent else stored,
        jnp.int32(1),
        table,
        lengths,
        scales=np.where(np.isnan(pool[:, :, :1, :, 0]), np.nan, scales),
    )
    close(got, np.stack(want))


@pytest.mark.parametrize(
    ("width", "sizes"),
    [(576, [512, 64]), (640, [512, 128]), (192, [128, 64]), (24, [16, 16]), (5, [16])],
)
def test_widths_are_cut_into_powers_of_two(width, sizes):
    parts = paged.cut(0, width)
    assert [part.size for part in parts] == sizes
    assert sum(part.real for part in parts) == width


@each_form
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "value_width"),
    [(128, 1, 576, 512), (32, 8, 128, None), (12, 2, 128, None)],
)
def test_paged_decode_in_bfloat16(rng, interpret, heads, kv_heads, width, value_width):
    batch, places, page = (2, 2, 16) if interpret else (6, 60, 64)
    heads = min(heads, 2 * kv_heads) if interpret else heads
    lengths = rng.integers(1, places * page, batch)
    table = rng.permutation(batch * places).reshape(batch, places)
    stored = width if value_width else 2 * width
    pool = normal(0, (2, batch * places, kv_heads, page, stored))
    q = normal(1, (batch, heads, width))
    got = jax.jit(
        functools.partial(
            paged.decode, scale=0.1, value_width=value_width, interpret=interpret
        )
    )(
        q,
        pool[:, :, 0] if value_width else pool,
        jnp.int32(1),
        jnp.asarray(table, jnp.int32),
        jnp.asarray(lengths, jnp.int32),
    )
    entries = jnp.moveaxis(pool[1, table].astype(F32), 2, 1)
    entries = entries.reshape(batch, kv_heads, places * page, stored)
    values = entries[..., :value_width] if value_width else entries[..., width:]
    grouped_q = q.astype(F32).reshape(batch, kv_heads, -1, width)
    scores = jnp.einsum("BKGH,BKSH->BKGS", grouped_q, entries[..., :width]) * 0.1
    seen = jnp.arange(places * page)[None] < jnp.asarray(lengths)[:, None]
    weights = softmaxed(scores, seen[:, None, None])
    want = jnp.einsum("BKGS,BKSW->BKGW", weights, values)
    close(got, want.reshape(batch, heads, -1), BF16)


@pytest.mark.parametrize("cached", [GQA[0], MLA[0]], ids=lambda c: c.name)
def test_the_gpu_door_equals_the_reference_in_mixed_steps(monkeypatch, cached):
    """Every token attends as a sequence of its own, after all are written."""
    simulated = functools.partial(paged.decode, interpret=True)
    monkeypatch.setattr(entries.gpu, "decode", simulated)
    case = dataclasses.replace(
        cached.small(), kind="mixed", rows=3, tokens=9, dtype="float32", page=32
    )
    door = (gqa_attention if case.kv_heads else mla_attention).mixed
    options = {"scale": 0.1}
    if not case.kv_heads:
        options["value_width"] = case.value_width
    arguments = paged_steps.step(case, [33, 5, 0], [4, 3, 0]).arguments
    results = [
        jax.jit(functools.partial(door, backend=backend, **options))(*arguments)
        for backend in (Backend("gpu"), REFERENCE)
    ]
    (given, pool), (expected, same) = results
    close(given, expected)
    np.testing.assert_array_equal(pool.values, same.values)
