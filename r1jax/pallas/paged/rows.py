"""Brings the flat rows of a tile's queries in, and takes its results out.

Where a token's query heads fill whole registers, its rows can be copied from and to
flat arrays [T, N, ...] at any token; queries need no gathering into tiles then.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.paged.shape import Shape
from r1jax.typing import Array

SLOTS = 2


class Rows:
    """Two tiles of queries and two of results in VMEM."""

    def __init__(self, shape: Shape, refs: Any) -> None:
        """Binds the sizes and the references."""
        self.shape, self.refs = shape, refs

    def start(self) -> None:
        """Asks for the first tile's queries."""
        self._queries(jnp.int32(0), "start")

    def enter(self, tile: Array) -> Array:
        """Waits for a tile's queries, asks for the next tile's; returns the slot.

        The slot's results from before have left when this returns.
        """
        following = jnp.minimum(tile + 1, self.shape.tiles - 1)

        @pl.when(tile + 1 < self.shape.tiles)
        def _() -> None:
            self._queries(following, "start")

        self._queries(tile, "wait")

        @pl.when(tile >= SLOTS)
        def _() -> None:
            self._results(jnp.maximum(tile - SLOTS, 0), "wait")

        return jax.lax.rem(tile, SLOTS)

    def leave(self, tile: Array) -> None:
        """Sends a tile's results home."""
        self._results(tile, "start")

    def drain(self) -> None:
        """Waits for the last results."""
        for tile in range(max(self.shape.tiles - SLOTS, 0), self.shape.tiles):
            self._results(jnp.int32(tile), "wait")

    def _queries(self, tile: Array, act: str) -> None:
        r = self.refs
        self._each(tile, act, [(r.q_home, r.q, r.queries_here)], inward=True)

    def _results(self, tile: Array, act: str) -> None:
        r = self.refs
        pairs = [(r.out_home, r.out, r.results_home)]
        if self.shape.partial:
            pairs.append((r.statistics_home, r.statistics, r.results_home))
        self._each(tile, act, pairs, inward=False)

    def _each(self, tile: Array, act: str, pairs: list[Any], inward: bool) -> None:
        """Starts, or waits for, the copies of each token of a tile."""
        heads, slot = self.shape.per_token, jax.lax.rem(tile, SLOTS)

        def one(i: Array, _: None) -> None:
            run = pl.ds(pl.multiple_of(i * heads, heads), heads)
            for home, here, sem in pairs:
                ends = home.at[self.refs.row[tile] + i], here.at[slot, 0, run, :]
                source, target = ends if inward else ends[::-1]
                copy = pltpu.make_async_copy(source, target, sem.at[slot])
                getattr(copy, act)()

        jax.lax.fori_loop(0, self.refs.tokens[tile], one, None)
