"""The core: attention of tiles of queries over pages that stream through VMEM."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.pallas.paged.fetch import USED, Ring, next_slot
from r1jax.pallas.paged.pool import LANES
from r1jax.pallas.paged.rows import Rows
from r1jax.pallas.paged.shape import Shape
from r1jax.pallas.paged.write import DecodeWrites, write_chunks
from r1jax.typing import Array

MASKED = -1e30
_LOG2_E = 1.4426950408889634


def attention_kernel(shape: Shape, refs: Any) -> None:
    """Attends from the tiles of one grid step to their sequences' keys."""
    step, steps = pl.program_id(0), pl.num_programs(0)
    ring, writes = Ring(shape, refs), DecodeWrites(shape, refs)
    rows = Rows(shape, refs)

    @pl.when(step == 0)
    def begin() -> None:
        if shape.chunks:
            write_chunks(shape, refs)
        ring.start()
        if shape.flat:
            rows.start()

    def one(within: Array, _: None) -> None:
        tile = step * shape.blocks.group + within
        if shape.flat:
            within = rows.enter(tile)

        @pl.when(refs.keys[tile] == 0)
        def empty() -> None:
            _nothing(shape, refs, within)

        @pl.when(refs.keys[tile] > 0)
        def filled() -> None:
            _attend(shape, refs, ring, writes, tile, within)

        if shape.flat:
            rows.leave(tile)

    jax.lax.fori_loop(0, shape.blocks.group, one, None)

    @pl.when(step == steps - 1)
    def end() -> None:
        if not shape.chunks:
            writes.drain()
        if shape.flat:
            rows.drain()


def _nothing(shape: Shape, refs: Any, within: Array) -> None:
    refs.out[within] = jnp.zeros(refs.out.shape[1:], refs.out.dtype)
    if shape.partial:
        _keep_statistics(refs, within, MASKED, 0.0)


def _attend(
    shape: Shape,
    refs: Any,
    ring: Ring,
    writes: DecodeWrites,
    tile: Array,
    within: Array,
) -> None:
    """Attends from one tile to all of its keys."""
    refs.mixed[...] = jnp.zeros(refs.mixed.shape, jnp.float32)
    refs.peak[...] = jnp.full(refs.peak.shape, MASKED, jnp.float32)
    refs.total[...] = jnp.zeros(refs.total.shape, jnp.float32)
    blocks = ring.blocks(tile)

    def block(b: Array, slot: Array) -> Array:
        ring.issue()
        ring.wait(tile, b, slot)
        if not shape.chunks:

            @pl.when((b == blocks - 1) & writes.is_due(tile))
            def _() -> None:
                writes.put(tile, within, slot)

        _block(shape, refs, tile, within, b, slot)
        return next_slot(slot, shape.blocks.depth)

    refs.cursor[USED] = jax.lax.fori_loop(0, blocks, block, refs.cursor[USED])
    _finish(shape, refs, within)


def _clean(shape: Shape, refs: Any, slot: Array, filled: Array) -> None:
    """Zeroes what lies after the last key: nothing times infinity is not nothing."""
    page, piece = shape.page, shape.blocks.piece

    def one(i: Array, _: None) -> None:
        old = refs.buffer[slot, i]
        row = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) + i * page
        refs.buffer[slot, i] = jnp.where(row < filled, old, jnp.zeros_like(old))
        if shape.scales:
            run = pl.ds(pl.multiple_of(i * page, page), page)
            old = refs.scale_buffer[slot, :, run]
            lane = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) + i * page
            refs.scale_buffer[slot, :, run] = jnp.where(lane < filled, old, 0.0)

    end = pl.cdiv(pl.cdiv(filled, piece) * piece, page)
    jax.lax.fori_loop(filled // page, end, one, None)


def _block(
    shape: Shape, refs: Any, tile: Array, within: Array, block: Array, slot: Array
) -> None:
    """Attends to a block: at once where all see it all, else to what is filled."""
    piece, start = shape.blocks.piece, block * shape.keys
    filled = refs.keys[tile] - start
    place = _Place(tile, within, slot)
    at_once = filled >= shape.keys
    if shape.chunks:  # the diagonal may cross any block
        at_once &= start + shape.keys <= refs.first[tile] + 1

    @pl.when(jnp.logical_not(at_once))
    def _() -> None:
        def one(i: Array, _: None) -> None:
            at = pl.multiple_of(i * piece, piece)
            _stripes(shape, refs, place, at, start + at, piece, False)

        @pl.when(filled < shape.keys)
        def _() -> None:
            _clean(shape, refs, slot, filled)

        number = pl.cdiv(jnp.minimum(filled, shape.keys), piece)
        jax.lax.fori_loop(0, number, one, None)

    @pl.when(at_once)
    def _() -> None:
        for at in range(0, shape.keys, shape.at_once):
            _stripes(shape, refs, place, at, start + at, shape.at_once, True)


class _Place(NamedTuple):
    """A tile in the call, the same in the grid step, and the slot of its keys."""

    tile: Array
    within: Array
    slot: Array


def _stripes(
    shape: Shape,
    refs: Any,
    place: _Place,
    at: int | Array,
    start: Array,
    size: int,
    all_shown: bool,
) -> None:
    """Attends from each stripe of rows that holds a token to some keys.

    Args:
      shape: The sizes.
      refs: The references.
      place: The tile and the slot.
      at: The first key, in the slot.
      start: The first key, in the sequence.
      size: How many keys.
      all_shown: Whether every row sees all of them.
    """
    if shape.rows == shape.stripe:
        return _stripe(shape, refs, place, at, start, size, all_shown, 0)
    used = pl.cdiv(refs.tokens[place.tile] * shape.per_token, shape.stripe)

    def one(i: Array, _: None) -> None:
        row = pl.multiple_of(i * shape.stripe, shape.stripe)
        _stripe(shape, refs, place, at, start, size, all_shown, row)

    return jax.lax.fori_loop(0, used, one, None)


def _stripe(
    s: Shape,
    refs: Any,
    place: _Place,
    at: int | Array,
    start: Array,
    size: int,
    all_shown: bool,
    row: int | Array,
) -> None:
    """Attends from one stripe of rows to some keys, with all key heads."""
    rows, run, slot = pl.ds(row, s.stripe), pl.ds(at, size), place.slot
    shown = None if all_shown else _shown(s, refs, place.tile, start, size, row)
    exponent = s.softmax_scale * _LOG2_E
    for head in range(s.heads):
        entries = _entries(s, refs, slot, head, at, size).astype(s.compute)
        scores = jax.lax.dot_general(
            refs.q[place.within, head, rows, :],
            entries[:, : s.query_width],
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        if s.scales:
            scores = scores * refs.scale_buffer[slot, pl.ds(head, 1), run]
        scores = scores if shown is None else jnp.where(shown, scores, MASKED)
        old = refs.peak[head, rows, :]
        peak = jnp.maximum(old, jnp.max(scores, axis=1, keepdims=True))
        fade = jnp.exp2((old - peak) * exponent)
        weights = jnp.exp2((scores - _wide(peak, size)) * exponent)
        refs.peak[head, rows, :] = peak
        refs.total[head, rows, :] = refs.total[head, rows, :] * fade + _fold(weights)
        if s.scales:
            scale = refs.scale_buffer[slot, pl.ds(_value_row(s, head), 1), run]
            weights = weights * scale
        value = entries[:, s.value_start : s.value_start + s.value_width]
        mixed = jnp.dot(
            weights.astype(s.compute), value, preferred_element_type=jnp.float32
        )
        older = refs.mixed[head, rows, :] * _wide(fade, s.value_width)
        refs.mixed[head, rows, :] = older + mixed


def _entries(
    s: Shape, refs: Any, slot: Array, head: int, at: int | Array, size: int
) -> Array:
    """Reads a head's entries [size, E] of some keys: whole pages, or a part of one."""
    if size % s.page == 0:
        pages = pl.ds(at // s.page, size // s.page)
        entries: Array = refs.buffer[slot, pages, head]
        return entries.reshape(size, s.width)
    within = at % s.page
    if not isinstance(within, int):
        within = pl.multiple_of(within, size)
    part: Array = refs.buffer[slot, at // s.page, head, pl.ds(within, size), :]
    return part


def _value_row(shape: Shape, head: int) -> int:
    """Returns which row of scales belongs to a head's values."""
    return head if shape.scales == shape.heads else shape.heads + head


def _shown(
    shape: Shape, refs: Any, tile: Array, start: Array, size: int, row: int | Array
) -> Array:
    """Returns which keys each row sees, [stripe, size]."""
    column = jax.lax.broadcasted_iota(jnp.int32, (shape.stripe, size), 1)
    keys = refs.keys[tile] - start
    if not shape.chunks:
        return column < keys
    rows = jax.lax.broadcasted_iota(jnp.int32, (shape.stripe, LANES), 0) + row
    # A division by multiplying, exact while rows < 65536 / per_token.
    token = (rows * (-(-65536 // shape.per_token))) >> 16
    last = jnp.minimum(refs.first[tile] - start + token, keys - 1)
    return column <= _wide(last, size)


def _finish(shape: Shape, refs: Any, within: Array) -> None:
    """Divides by the sum of weights; a row that saw nothing gives zeros."""
    for head in range(shape.heads):
        peak = refs.peak[head]
        seen = peak > MASKED / 2
        total = jnp.sum(refs.total[head], axis=1, keepdims=True)
        total = jnp.where(seen, jnp.broadcast_to(total, peak.shape), 0.0)
        share = jnp.where(seen, 1.0, 0.0)
        if not shape.partial:
            share = share / jnp.where(seen, total, 1.0)
        mixed = refs.mixed[head] * _wide(share, shape.value_width)
        refs.out[within, head] = mixed.astype(refs.out.dtype)
        if shape.partial:
            scaled = jnp.where(seen, peak * shape.softmax_scale, MASKED)
            lane = jax.lax.broadcasted_iota(jnp.int32, peak.shape, 1)
            refs.statistics[within, head] = jnp.where(lane == 0, scaled, total)


def _keep_statistics(refs: Any, within: Array, peak: float, total: float) -> None:
    shape = refs.statistics.shape[1:]
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 2)
    refs.statistics[within] = jnp.where(lane == 0, peak, total)


def _wide(x: Array, width: int) -> Array:
    """Repeats 128 equal lanes."""
    return jnp.concatenate([x] * (width // LANES), axis=1)


def _fold(x: Array) -> Array:
    """Adds up lanes 128 apart; the last sum is left for the end."""
    parts = [x[:, i : i + LANES] for i in range(0, x.shape[1], LANES)]
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return parts[0]
