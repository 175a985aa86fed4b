"""Causal attention of a long chunk on a TPU: scores lie as [keys, queries].

Lying so, a query's statistics are one lane wide and the maximum and the sum of a block
go along sublanes, on the vector unit, where [queries, keys] would need a trip through
the cross-lane unit for every row. The probabilities become the matrix unit's stationary
operand and the values stream past them: an output W = 128 wide then fills a unit 256
wide, which it would half fill the other way round. So values come as [W, S].

One grid step holds the queries of a head (or as many as fit) and its keys, and walks
the visible blocks of the triangle only, as one software pipeline that runs on from one
block of queries to the next: while the softmax of a block and its product with the
values are worked out, the scores of the next block are. Scores wait in VMEM; part by
part they are read, turned into probabilities, and their place is taken by the next
block's, so the addresses are fixed and the compiler can prove what is independent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.pallas.flash_prefill.blocks import Blocks
from r1jax.typing import Array

MASKED = -1e30
_LOG2E = 1.4426950408889634
SUBLANES = 8
_NT = (((1,), (1,)), ((), ()))
_NN = (((1,), (0,)), ((), ()))


class _Refs(NamedTuple):
    """What a grid step sees."""

    bounds: Any  # prefix, length, keys
    q: Any  # [Tc, H]
    k: Any  # [Sc, H], or [Sc, H - 128] where the rest is shared by the heads
    v: Any  # [W, Sc]
    shared: Any  # [Sc, 128], or None
    out: Any  # [Tc, W]
    shares: list[Any]  # peak and total [1, Tc], on request
    scores: Any  # [k, q] float32, base 2
    scaled: Any  # [q, H]
    acc: Any  # [W, q] float32
    saved: list[Any]  # acc [., W, q], peak [., 1, q], sums [., 8, q], between chunks


class _Tile(NamedTuple):
    """Where the queries and keys of a grid step lie."""

    start: Array  # position of the first query
    real: Array  # how many of the queries are real
    first_key: Array  # position of the first key
    limit: Array  # keys owned, counted from the first key
    blocks: Blocks
    scale: float


def kernel(
    *args: Any, scale: float, blocks: Blocks, partial: bool, shared: bool
) -> None:
    """Attends the queries of one grid step to the keys of it.

    The references are those of `_Refs`, in its order; only what there is comes.
    """
    bounds, q, k, v, *rest = args
    of_all = rest.pop(0) if shared else None
    out, *rest = rest
    shares, rest = rest[: 2 * partial], rest[2 * partial :]
    scores, scaled, acc, *saved = rest
    refs = _Refs(bounds, q, k, v, of_all, out, shares, scores, scaled, acc, saved)
    prefix, length, keys = refs.bounds[0], refs.bounds[1], refs.bounds[2]
    t, c = pl.program_id(1), pl.program_id(2)
    start, first_key = t * blocks.held_q, c * blocks.held_k
    real = jnp.clip(length - start, 0, blocks.held_q)
    limit = keys - first_key
    tile = _Tile(prefix + start, real, first_key, limit, blocks, scale)
    live = pl.cdiv(real, blocks.q)

    @pl.when(c == 0)
    def _() -> None:
        lax.fori_loop(live, blocks.held_q // blocks.q, _clear(refs, blocks), None)

    # The first block of queries that sees any of these keys.
    first = jnp.maximum(first_key - tile.start, 0) // blocks.q
    first = jnp.where(limit > 0, jnp.minimum(first, live), live)

    @pl.when(first < live)
    def _() -> None:
        lax.fori_loop(
            first,
            live,
            functools.partial(_queries, refs=refs, tile=tile),
            _begin(refs, tile, first),
        )


def _clear(refs: _Refs, blocks: Blocks) -> Callable[[Array, None], None]:
    """Writes what queries that are not real give."""

    def body(i: Array, _: None) -> None:
        at = pl.ds(pl.multiple_of(i * blocks.q, blocks.q), blocks.q)
        refs.out[at, :] = jnp.zeros((blocks.q, refs.out.shape[1]), refs.out.dtype)
        for ref, value in zip(refs.shares, (MASKED, 0.0), strict=False):
            ref[:, at] = jnp.full((1, blocks.q), value, jnp.float32)

    return body


def _begin(refs: _Refs, tile: _Tile, i: Array) -> Array:
    """Fills the pipeline: the first block's scores. Returns their maximum [1, q]."""
    _load_queries(refs, tile, i)
    refs.acc[...] = jnp.zeros_like(refs.acc)
    score = functools.partial(_score, refs, tile, i, jnp.int32(0), masked=True)
    return _highest([score(p) for p in range(tile.blocks.k // tile.blocks.part)])


def _load_queries(refs: _Refs, tile: _Tile, i: Array) -> None:
    rows = tile.blocks.q
    q = refs.q[pl.ds(pl.multiple_of(i * rows, rows), rows), :].astype(jnp.float32)
    refs.scaled[...] = (q * (tile.scale * _LOG2E)).astype(refs.scaled.dtype)


def _queries(i: Array, highest: Array, *, refs: _Refs, tile: _Tile) -> Array:
    """Attends one block of queries; leaves the first scores of the next block."""
    size, held = tile.blocks.k, tile.blocks.held_k
    start = tile.start + i * tile.blocks.q - tile.first_key
    end = jnp.minimum(start + tile.blocks.q, tile.limit)
    seen = jnp.clip(pl.cdiv(end, size), 1, held // size)
    whole = jnp.clip(jnp.minimum(start + 1, tile.limit) // size, 1, seen)
    step = functools.partial(_step, i, refs=refs, tile=tile)
    carry = (*_resume(refs, tile, i), highest)
    carry = lax.fori_loop(0, whole - 1, functools.partial(step, masked=False), carry)
    carry = lax.fori_loop(
        whole - 1, seen - 1, functools.partial(step, masked=True), carry
    )
    *state, highest = step(seen - 1, carry, masked=True, last=True)
    if not refs.saved:
        _finish(refs, tile, i, *state)
        return highest

    @pl.when(end <= held)
    def _() -> None:
        _finish(refs, tile, i, *state)

    @pl.when(end > held)
    def _() -> None:
        for ref, value in zip(refs.saved, (refs.acc[...], *state), strict=True):
            ref[i] = value

    refs.acc[...] = jnp.zeros_like(refs.acc)
    return highest


def _resume(refs: _Refs, tile: _Tile, i: Array) -> tuple[Array, Array]:
    """Returns peak [1, q] and sums [8, q] as an earlier chunk of keys left them."""
    rows = tile.blocks.q
    peak = jnp.full((1, rows), MASKED, jnp.float32)
    sums = jnp.zeros((SUBLANES, rows), jnp.float32)
    if not refs.saved:
        return peak, sums
    later = tile.first_key > 0

    @pl.when(later)
    def _() -> None:
        refs.acc[...] = refs.saved[0][i]

    return (
        jnp.where(later, refs.saved[1][i], peak),
        jnp.where(later, refs.saved[2][i], sums),
    )


def _step(
    i: Array,
    j: Array,
    carry: tuple[Array, Array, Array],
    *,
    refs: _Refs,
    tile: _Tile,
    masked: bool,
    last: bool = False,
) -> tuple[Array, Array, Array]:
    """Takes block j of keys, whose scores are there, and makes the next scores.

    Args:
      i: The block of queries.
      j: The block of keys.
      carry: Largest score so far [1, q], sums of exponentials by sublane [8, q], and
        the largest score of block j [1, q].
      refs: Everything.
      tile: Where it lies.
      masked: The next block may hold keys that some query does not see.
      last: The next block is the first of the next queries, and this one may hold
        keys that nobody owns.
    """
    blocks = tile.blocks
    before, sums, highest = carry
    peak = jnp.maximum(before, highest)
    shrink = jnp.exp2(before - peak)
    sums *= shrink
    refs.acc[...] *= shrink
    if last:
        i, following = jnp.minimum(i + 1, blocks.held_q // blocks.q - 1), jnp.int32(0)
        _load_queries(refs, tile, i)
    else:
        following = j + 1
    tops = []
    for p in range(blocks.k // blocks.part):
        at = slice(p * blocks.part, (p + 1) * blocks.part)
        weights = jnp.exp2(refs.scores[at, :] - peak)
        sums += jnp.sum(_fold(weights), axis=0)
        tops.append(_score(refs, tile, i, following, p, masked=masked))
        v = _values(refs, tile, j, p, check=last)
        refs.acc[...] += _dot(v, weights.astype(v.dtype), _NN)
    return peak, sums, _highest(tops)


def _score(
    refs: _Refs, tile: _Tile, i: Array, j: Array, p: int, *, masked: bool
) -> Array:
    """Writes scores of part p of block j; returns their maximum by sublane [8, q]."""
    blocks = tile.blocks
    begin = pl.multiple_of(j * blocks.k, blocks.k) + p * blocks.part
    keys = refs.k[pl.ds(begin, blocks.part), :]
    if refs.shared is not None:
        shared = refs.shared[pl.ds(begin, blocks.part), :]
        keys = jnp.concatenate([keys, shared], axis=1)
    scores = _dot(keys, refs.scaled[...], _NT)
    if masked:
        # Key and query positions, both counted from this part's first key.
        key = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        ahead = tile.start + i * blocks.q - tile.first_key - begin
        query = lax.broadcasted_iota(jnp.int32, scores.shape, 1) + ahead
        last = jnp.minimum(query, tile.limit - begin - 1)
        scores = jnp.where(key <= last, scores, MASKED)
    refs.scores[p * blocks.part : (p + 1) * blocks.part, :] = scores
    return jnp.max(_fold(scores), axis=0)


def _values(refs: _Refs, tile: _Tile, j: Array, p: int, *, check: bool) -> Array:
    """Returns values [W, part]; zeros for keys that nobody owns, if `check`."""
    blocks = tile.blocks
    begin = pl.multiple_of(j * blocks.k, blocks.k) + p * blocks.part
    v: Array = refs.v[:, pl.ds(begin, blocks.part)]
    if not check:
        return v
    owned = lax.broadcasted_iota(jnp.int32, v.shape, 1) < tile.limit - begin
    return jnp.where(owned, v, jnp.zeros_like(v))


def _finish(refs: _Refs, tile: _Tile, i: Array, peak: Array, sums: Array) -> None:
    """Writes the outputs of a block of queries; zeros for those that are not real."""
    rows = tile.blocks.q
    at = pl.ds(pl.multiple_of(i * rows, rows), rows)
    real = tile.real - i * rows
    total = jnp.sum(sums, axis=0, keepdims=True)
    mixed = refs.acc[...]
    if not refs.saved:
        refs.acc[...] = jnp.zeros_like(refs.acc)
    if refs.shares:
        column = lax.broadcasted_iota(jnp.int32, (1, rows), 1) < real
        refs.shares[0][:, at] = jnp.where(column, peak / _LOG2E, MASKED)
        refs.shares[1][:, at] = jnp.where(column, total, 0.0)
    else:
        mixed *= 1.0 / total
    column = lax.broadcasted_iota(jnp.int32, mixed.shape, 1) < real
    mixed = jnp.where(column, mixed, 0.0)
    refs.out[at, :] = mixed.T.astype(refs.out.dtype)


def _dot(a: Array, b: Array, dims: Any) -> Array:
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _fold(x: Array) -> Array:
    """Lays rows as [., 8, columns], so that a reduction adds whole registers."""
    return x.reshape(-1, SUBLANES, x.shape[1])


def _highest(tops: list[Array]) -> Array:
    return jnp.max(functools.reduce(jnp.maximum, tops), axis=0, keepdims=True)
