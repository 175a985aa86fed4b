"""Writes a step's new entries into their pages, in place.

A page is written in aligned runs ("chunks"): what the run held is read, the new rows
are put in, and all of it is written back. No other page is touched.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.paged.shape import Shape
from r1jax.typing import Array


class DecodeWrites:
    """One new entry a sequence, put into the block of keys that holds its place.

    The block is in VMEM already, so nothing is read twice and nothing waits: the run
    around the new entry leaves from a small buffer of its own while attention goes on.
    """

    def __init__(self, shape: Shape, refs: Any) -> None:
        """Binds the sizes and the references."""
        self.shape, self.refs = shape, refs

    def is_due(self, tile: Array) -> Array:
        """Tells whether the tile's new entry belongs to this part of the cache."""
        keys = self.refs.keys[tile]
        return (keys > 0) & (self.refs.first[tile] + 1 == keys)

    def put(self, tile: Array, within: Array, slot: Array) -> None:
        """Puts the new entry into the last block of a tile and sends its run home.

        Args:
          tile: The tile, in the call.
          within: The same, in the grid step.
          slot: Where the block lies.
        """
        s, r = self.shape, self.refs
        stage = jax.lax.rem(tile, s.stages)
        older = tile - s.stages

        @pl.when((older >= 0) & self.is_due(jnp.maximum(older, 0)))
        def _() -> None:
            self._wait(stage)

        row = r.first[tile] % s.keys
        base = pl.multiple_of(row % s.page // s.chunk * s.chunk, s.chunk)
        run, page = pl.ds(base, s.chunk), row // s.page
        old = r.buffer[slot, page, :, run, :]
        here = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) == row % s.page - base
        new = jnp.where(here, jnp.broadcast_to(r.new[within], old.shape), old)
        r.buffer[slot, page, :, run, :] = new
        r.stage[stage] = new
        if s.scales:
            self._put_scales(tile, within, slot, row, stage)
        for copy in self._copies(tile, stage):
            copy.start()

    def drain(self) -> None:
        """Waits for the writes that are still on their way."""
        s = self.shape
        for tile in range(max(s.tiles - s.stages, 0), s.tiles):

            @pl.when(self.is_due(jnp.int32(tile)))
            def _(tile: int = tile) -> None:
                self._wait(jnp.int32(tile % s.stages))

    def _put_scales(
        self, tile: Array, within: Array, slot: Array, row: Array, stage: Array
    ) -> None:
        s, r = self.shape, self.refs
        page = pl.ds(pl.multiple_of(row // s.page * s.page, s.page), s.page)
        old = r.scale_buffer[slot, :, page]
        here = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) == row % s.page
        new = jnp.where(here, jnp.broadcast_to(r.new_scales[within], old.shape), old)
        r.scale_buffer[slot, :, page] = new
        r.scale_stage[stage] = new

    def _copies(self, tile: Array, stage: Array) -> list[Any]:
        s, r = self.shape, self.refs
        at, layer, sem = r.first[tile], r.layer[0], r.written.at[stage]
        page = r.table[r.sequence[tile] * s.pages + at // s.page]
        base = pl.multiple_of(at % s.page // s.chunk * s.chunk, s.chunk)
        place = r.pool.at[layer, page, :, pl.ds(base, s.chunk)]
        copies = [pltpu.make_async_copy(r.stage.at[stage], place, sem)]
        if s.scales:
            copies.append(
                pltpu.make_async_copy(
                    r.scale_stage.at[stage], r.scales.at[layer, page], sem
                )
            )
        return copies

    def _wait(self, stage: Array) -> None:
        """Waits for a write; only the sizes of its copies matter."""
        r = self.refs
        run = r.pool.at[0, 0, :, pl.ds(0, self.shape.chunk)]
        pltpu.make_async_copy(r.stage.at[stage], run, r.written.at[stage]).wait()
        if self.shape.scales:
            pltpu.make_async_copy(
                r.scale_stage.at[stage], r.scales.at[0, 0], r.written.at[stage]
            ).wait()


def write_chunks(shape: Shape, refs: Any) -> None:
    """Writes all new entries before attention starts, many runs at a time."""
    rounds = -(-shape.chunks // shape.stages)

    def one_round(i: Array, _: None) -> None:
        first = i * shape.stages
        _each(shape, refs, first, _start_reading)
        _each(shape, refs, first, _put_and_send)
        _each(shape, refs, first, _finish)

    jax.lax.fori_loop(0, rounds, one_round, None)


def _each(shape: Shape, refs: Any, first: Array, act: Any) -> None:
    """Acts on each chunk of a round that has new rows."""

    def one(stage: Array, _: None) -> None:
        chunk = jnp.minimum(first + stage, shape.chunks - 1)
        is_ours = first + stage < shape.chunks

        @pl.when(is_ours & (refs.chunk_high[chunk] > refs.chunk_low[chunk]))
        def here() -> None:
            act(shape, refs, chunk, stage)

    jax.lax.fori_loop(0, shape.stages, one, None)


def _places(shape: Shape, refs: Any, chunk: Array, stage: Array) -> list[Any]:
    """Pairs what the pools hold with where it is changed."""
    page, layer = refs.chunk_page[chunk], refs.layer[0]
    base = pl.multiple_of(refs.chunk_at[chunk] * shape.chunk, shape.chunk)
    pairs = [
        (refs.pool.at[layer, page, :, pl.ds(base, shape.chunk)], refs.stage.at[stage])
    ]
    if shape.scales:
        lanes = pl.ds(base, shape.chunk)
        pairs.append(
            (refs.scales.at[layer, page, :, lanes], refs.scale_stage.at[stage])
        )
    return pairs


def _news(shape: Shape, refs: Any, chunk: Array, stage: Array) -> list[Any]:
    sem = refs.written.at[stage]
    copies = [pltpu.make_async_copy(refs.new.at[chunk], refs.fresh.at[stage], sem)]
    if shape.scales:
        copies.append(
            pltpu.make_async_copy(
                refs.new_scales.at[chunk], refs.scale_fresh.at[stage], sem
            )
        )
    return copies


def _start_reading(shape: Shape, refs: Any, chunk: Array, stage: Array) -> None:
    for home, here in _places(shape, refs, chunk, stage):
        pltpu.make_async_copy(home, here, refs.written.at[stage]).start()
    for copy in _news(shape, refs, chunk, stage):
        copy.start()


def _put_and_send(shape: Shape, refs: Any, chunk: Array, stage: Array) -> None:
    sem = refs.written.at[stage]
    for home, here in _places(shape, refs, chunk, stage):
        pltpu.make_async_copy(home, here, sem).wait()
    for copy in _news(shape, refs, chunk, stage):
        copy.wait()
    low, high = refs.chunk_low[chunk], refs.chunk_high[chunk]

    def put(staged: Any, fresh: Any) -> None:
        old = staged[stage]
        row = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1)
        staged[stage] = jnp.where((row >= low) & (row < high), fresh[stage], old)

    put(refs.stage, refs.fresh)
    if shape.scales:
        put(refs.scale_stage, refs.scale_fresh)
    for home, here in _places(shape, refs, chunk, stage):
        pltpu.make_async_copy(here, home, sem).start()


def _finish(shape: Shape, refs: Any, chunk: Array, stage: Array) -> None:
    for home, here in _places(shape, refs, chunk, stage):
        pltpu.make_async_copy(here, home, refs.written.at[stage]).wait()
