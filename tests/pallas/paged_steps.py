"""Steps with drawn lengths for the paged kernels, poison in all that no one owns."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic.interpret import interpret_pallas_call

from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import REFERENCE, interpreted
from r1jax.pallas.paged import Pool
from r1jax.pallas.paged.cases import Case
from r1jax.pallas.paged.pool import quantise
from r1jax.pallas.paged.shape import Blocks

# Small blocks, so that a few tokens fill several.
BLOCKS = Blocks(keys=256, piece=128, depth=2, group=2, queries=4, stripe=32)
LAYER = 1


@dataclass(frozen=True)
class Step:
    """A case's arguments, and the pool's page numbers that are anyone's."""

    case: Case
    arguments: list[Any]
    offsets: Any = None


def step(
    case: Case, lengths: list[int], counts: list[int], offsets: Any = None
) -> Step:
    """Makes a step: the last counts[b] of sequence b's lengths[b] tokens are new."""
    rng = np.random.default_rng(0)
    starts_at = np.zeros(len(lengths), int) if offsets is None else np.asarray(offsets)
    heads, size, pages = max(case.kv_heads, 1), case.page, case.pages
    shape = (case.layers, 1 + len(lengths) * pages, heads, size, case.entry_width)
    kept = np.full(shape, np.nan, np.float32)
    free = iter(1 + rng.permutation(len(lengths) * pages))
    table = np.full((len(lengths), pages), 2**30, np.int32)
    for b, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        here = int(np.clip(length - starts_at[b], 0, pages * size))
        for j in range(-(-here // size)):
            table[b, j] = next(free)
            old = int(np.clip(length - count - starts_at[b] - j * size, 0, size))
            drawn = rng.standard_normal((case.layers, heads, old, case.entry_width))
            kept[:, table[b, j], :, :old] = drawn
    tokens = case.tokens or len(lengths)
    q = rng.standard_normal((tokens, case.heads, case.width))
    new = rng.standard_normal((tokens, heads, case.entry_width))
    ints = [jnp.int32(LAYER), table, np.asarray(lengths, np.int32)]
    if case.kind == "mixed":
        starts = _starts(rng, counts, tokens)
        owned = np.zeros(tokens, bool)
        for start, count in zip(starts, counts, strict=True):
            owned[start : start + count] = True
        q[~owned] = new[~owned] = np.nan
        ints += [starts, np.asarray(counts, np.int32)]
    pool = _pool(case, kept)
    if not case.kv_heads:
        new, pool = new[:, 0], Pool(pool.values[:, :, 0], pool.scales)
    dtype = jnp.float32 if case.dtype in ("float32", "int8") else jnp.bfloat16
    floats = [jnp.asarray(x, dtype) for x in (q, new)]
    arguments = [*floats, pool, *(jnp.asarray(x) for x in ints)]
    where = None if offsets is None else jnp.asarray(offsets, jnp.int32)
    return Step(case, arguments, where)


def _starts(rng: np.random.Generator, counts: list[int], tokens: int) -> np.ndarray:
    """Lays sequences in any order, with what is left over between two of them."""
    starts = np.zeros(len(counts), np.int32)
    at, spare = 0, tokens - sum(counts)
    order = rng.permutation(len(counts))
    for b in order:
        starts[b] = at
        at += counts[b] + (spare if b == order[0] else 0)
    return starts


def _pool(case: Case, kept: np.ndarray) -> Pool:
    if case.dtype != "int8":
        return Pool(jnp.asarray(kept, case.dtype))
    parts = 2 if case.kv_heads else 1
    rows = jnp.asarray(np.moveaxis(kept, -2, -3))
    values, scales = quantise(jnp.nan_to_num(rows, nan=3e30), parts, jnp.int8)
    spoilt = jnp.isnan(rows).any(axis=(-1, -2))[..., None]
    scales = jnp.where(spoilt, jnp.nan, scales)
    return Pool(jnp.swapaxes(values, -2, -3), jnp.swapaxes(scales, -1, -2))


@functools.cache
def _function(case: Case, partial: bool, races: bool, blocks: Blocks) -> Any:
    backend = interpreted("v6e", detect_races=races)
    return jax.jit(functools.partial(_call, case, backend, partial, blocks))


def _call(case: Case, backend: Any, partial: bool, blocks: Any, *args: Any) -> Any:
    *arguments, offsets = args
    kernel = gqa_attention if case.kv_heads else mla_attention
    extra = {} if case.kv_heads else {"value_width": case.value_width}
    function = getattr(kernel, case.kind)
    return function(
        *arguments,
        scale=0.1,
        backend=backend,
        partial=partial,
        blocks=blocks,
        offsets=offsets,
        **extra,
    )


def run(
    s: Step, partial: bool = False, races: bool = False, blocks: Blocks = BLOCKS
) -> Any:
    """Runs the simulated kernel; fails where the race detector found a race."""
    given = _function(s.case, partial, races, blocks)(*s.arguments, s.offsets)
    jax.block_until_ready(given)
    if races:
        assert interpret_pallas_call.races is not None
        assert not interpret_pallas_call.races.races_found
    return given


def refer(s: Step, partial: bool = False) -> Any:
    """Runs the reference."""
    return _call(s.case, REFERENCE, partial, None, *s.arguments, s.offsets)


def check(s: Step, **options: Any) -> None:
    """Compares the kernel's results and pool with the reference's."""
    given, pool = run(s, **options)
    expected, same = refer(s, options.get("partial", False))
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        close(a, b)
    for a, b in zip(jax.tree.leaves(pool), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(
            np.asarray(a, np.float32), np.asarray(b, np.float32)
        )


def close(given: Any, expected: Any) -> None:
    """Compares within the tolerance of the dtype, relative to the largest value."""
    tolerance = 1e-5 if given.dtype == jnp.float32 else 2e-2
    expected = np.asarray(expected, np.float32)
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(
        np.asarray(given, np.float32), expected, rtol=0, atol=tolerance * scale
    )
