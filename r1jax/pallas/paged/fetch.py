"""Streams pages from HBM ahead of their use, across tiles and grid steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.paged.shape import Shape
from r1jax.typing import Array

# Places of the cursor.
_TILE, _BLOCK, _SLOT, USED = range(4)


def next_slot(slot: Array, depth: int) -> Array:
    """Returns the ring's following slot."""
    return jnp.where(slot == depth - 1, 0, slot + 1)


class Ring:
    """Blocks of keys in `depth` slots of VMEM: one in use, the others on their way.

    A cursor in SMEM says which block is asked for next; it runs ahead of the
    attention, over the ends of tiles and of grid steps, and skips empty tiles.
    """

    def __init__(self, shape: Shape, refs: Any) -> None:
        """Binds the sizes and the references."""
        self.shape, self.refs = shape, refs

    def blocks(self, tile: Array) -> Array:
        """Returns how many blocks a tile needs."""
        return pl.cdiv(self.refs.keys[tile], self.shape.keys)

    def start(self) -> None:
        """Asks for the first blocks of the call."""
        cursor = self.refs.cursor
        cursor[_TILE], cursor[_BLOCK] = self._filled(jnp.int32(0)), jnp.int32(0)
        cursor[_SLOT] = cursor[USED] = jnp.int32(0)
        for _ in range(self.shape.blocks.depth - 1):
            self.issue()

    def issue(self) -> None:
        """Asks for one more block, if any is left."""
        cursor = self.refs.cursor
        tile, block, slot = cursor[_TILE], cursor[_BLOCK], cursor[_SLOT]

        @pl.when(tile < self.shape.tiles)
        def _() -> None:
            self._each_page(tile, block, slot, start=True)
            more = block + 1 < self.blocks(tile)

            @pl.when(more)
            def _() -> None:
                cursor[_BLOCK] = block + 1

            @pl.when(jnp.logical_not(more))
            def _() -> None:
                cursor[_BLOCK] = jnp.int32(0)
                cursor[_TILE] = self._filled(tile + 1)

            cursor[_SLOT] = next_slot(slot, self.shape.blocks.depth)

    def wait(self, tile: Array, block: Array, slot: Array) -> None:
        """Waits until a block lies in its slot."""
        self._each_page(tile, block, slot, start=False)

    def _filled(self, tile: Array) -> Array:
        """Returns the first tile from `tile` on that needs keys."""
        last = self.shape.tiles - 1
        return jax.lax.while_loop(
            lambda t: (t <= last) & (self.refs.keys[jnp.minimum(t, last)] == 0),
            lambda t: t + 1,
            tile,
        )

    def _each_page(self, tile: Array, block: Array, slot: Array, start: bool) -> None:
        """Starts, or waits for, the copies of a block's pages."""
        s, r = self.shape, self.refs
        first = block * s.block_pages
        needed = pl.cdiv(r.keys[tile], s.page) - first
        row = r.sequence[tile] * s.pages + first

        def one(i: Any, _: None) -> None:
            for copy in self._copies(i, r.table[row + i] if start else 0, slot):
                copy.start() if start else copy.wait()

        @pl.when(needed >= s.block_pages)
        def _() -> None:
            if start:
                for i in range(s.block_pages):
                    one(i, None)
            else:
                for copy in self._whole(slot):
                    copy.wait()

        @pl.when(needed < s.block_pages)
        def _() -> None:
            jax.lax.fori_loop(0, needed, one, None)

    def _copies(self, i: Any, page: Any, slot: Array) -> list[Any]:
        """Returns what brings one page to its place in a slot."""
        s, r = self.shape, self.refs
        layer, sem = r.layer[0], r.fetched.at[slot]
        values = r.pool.at[layer, page], r.buffer.at[slot, i]
        copies = [pltpu.make_async_copy(*values, sem)]
        if s.scales:
            at = pl.ds(i * s.page, s.page)
            if not isinstance(i, int):
                at = pl.ds(pl.multiple_of(i * s.page, s.page), s.page)
            scales = r.scales.at[layer, page], r.scale_buffer.at[slot, :, at]
            copies.append(pltpu.make_async_copy(*scales, sem))
        return copies

    def _whole(self, slot: Array) -> list[Any]:
        """Returns copies as large as a slot, for one wait instead of one a page."""
        r, sem = self.refs, self.refs.fetched.at[slot]
        buffers = [r.buffer] + ([r.scale_buffer] if self.shape.scales else [])
        return [pltpu.make_async_copy(b.at[slot], b.at[slot], sem) for b in buffers]
