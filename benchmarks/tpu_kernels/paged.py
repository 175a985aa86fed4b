"""Our paged attention: what one call runs and copies."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from tpu_bundles import Region
from tpu_compile import Program
from tpu_kernels.grid import STAGES

from r1jax.pallas import gqa_attention, mla_attention
from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import Chip
from r1jax.pallas.gqa_attention import blocks as gqa_blocks
from r1jax.pallas.mla_attention import blocks as mla_blocks
from r1jax.pallas.paged import tiles
from r1jax.pallas.paged.cases import Case
from r1jax.pallas.paged.entries import Step
from r1jax.pallas.paged.pool import Pool
from r1jax.pallas.paged.shape import Blocks

SCALE = 0.1
_ROWS = 16
_LANES = 128


def ours(case: Case, chip: Chip, blocks: Blocks | None = None) -> Program:
    """Returns our kernel for a case, by the table's blocks if none are given."""
    backend = Backend("tpu", chip)
    blocks = blocks or chosen(case, backend)
    function = functools.partial(
        getattr(gqa_attention if case.kv_heads else mla_attention, case.kind),
        scale=SCALE,
        backend=backend,
        blocks=blocks,
        **({} if case.kv_heads else {"value_width": case.value_width}),
    )
    work = _Work(case, blocks)
    group = f" group {blocks.group}" if case.kind == "decode" else ""
    tile = f" tile {work.tokens_of_a_tile}" if case.kind == "mixed" else ""
    return Program(
        "r1jax",
        f"{'gqa' if case.kv_heads else 'mla'}_{case.kind}",
        function,
        case.arguments(),
        work.passes,
        work.moved(),
        f"keys {blocks.keys}{group}{tile}",
        donate=(2,),
    )


def counts_of(case: Case) -> list[int]:
    """Lists the new tokens of each sequence of a mixed step.

    As many for each where that divides, as guesses are; else the last brings a prompt.
    """
    each, left = divmod(case.tokens, case.rows)
    if not left:
        return [each] * case.rows
    return [1] * (case.rows - 1) + [case.tokens - case.rows + 1]


def chosen(case: Case, backend: Backend) -> Blocks:
    """Returns the table's blocks."""
    q, new, pool, *rest = case.arguments()
    values = pool.values
    if not case.kv_heads:
        *lead, page, width = values.shape
        values = values.update(shape=(*lead, 1, page, width))
    step = Step(q, new, Pool(values, pool.scales), *rest[:3], rest[2])
    if case.kind == "mixed":
        table = gqa_blocks if case.kv_heads else mla_blocks
        return table.choose_mixed(step)
    if case.kv_heads:
        return gqa_blocks.choose_decode(step)
    return mla_blocks.choose_decode(backend, step)


@dataclass(frozen=True)
class _Tile:
    """Keys that a tile of queries sees, the first query's place, and its tokens."""

    keys: int
    first: int
    tokens: int


@dataclass(frozen=True)
class _Block:
    """Keys that a block of a tile holds, the tile's tokens, and whether all see all."""

    keys: int
    tokens: int
    is_at_once: bool


class _Work:
    """The tiles of a case, and their blocks of keys in the order they are asked for."""

    def __init__(self, case: Case, blocks: Blocks) -> None:
        """Cuts a case: the last sequence brings the chunk, if there is one."""
        self.case, self.blocks = case, blocks
        lengths = jnp.full(case.rows, case.context)
        offsets = jnp.zeros_like(lengths)
        capacity = case.pages * case.page
        self.tokens_of_a_tile, self.group, self.chunks = 1, blocks.group, 0
        if case.kind == "decode":
            self.group = min(blocks.group, case.rows)
            plan = tiles.decode_tiles(lengths, offsets, capacity, self.group)
        else:
            self.tokens_of_a_tile = min(blocks.queries, case.tokens)
            counts = np.asarray(counts_of(case))
            starts = jnp.asarray(np.cumsum(counts) - counts)
            where = (starts, jnp.asarray(counts), lengths, offsets)
            plan, _ = tiles.ragged_tiles(
                *where,
                tokens=case.tokens,
                tile=self.tokens_of_a_tile,
                capacity=capacity,
                group=blocks.group,
            )
            table = jnp.zeros((case.rows, case.pages), jnp.int32)
            written = tiles.chunks(
                *where,
                table,
                tokens=case.tokens,
                page=case.page,
                rows=self._run(),
            )
            self.chunks = len(written.page)
        columns = (plan.keys, plan.first, plan.tokens)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self.tiles = [_Tile(*row) for row in rows]
        self.filled = [tile for tile in self.tiles if tile.keys]
        size = blocks.keys
        self.held = [
            _Block(
                min(size, tile.keys - at),
                tile.tokens,
                size <= tile.keys - at
                and (not self.chunks or at + size <= tile.first + 1),
            )
            for tile in self.filled
            for at in range(0, tile.keys, size)
        ]

    def _run(self) -> int:
        """Returns the rows of an aligned write."""
        item = jnp.dtype(self.case.dtype).itemsize
        return self.case.page if self.case.dtype == "int8" else 32 // item

    @property
    def _rows(self) -> tuple[int, int]:
        """Returns the rows of a tile and key head, and those of a stripe."""
        per_token = self.case.heads // max(self.case.kv_heads, 1)
        rows = -(-self.tokens_of_a_tile * per_token // _ROWS) * _ROWS
        stripe = min(rows, self.blocks.stripe)
        return -(-rows // stripe) * stripe, stripe

    @property
    def _flat(self) -> bool:
        per_token = self.case.heads // max(self.case.kv_heads, 1)
        return bool(self.chunks) and self.case.kv_heads < 2 and per_token % _ROWS == 0

    def moved(self) -> int:
        """Adds up whole pages of keys for each tile, queries, results and writes."""
        case = self.case
        pages = sum(-(-tile.keys // case.page) for tile in self.filled)
        heads = max(case.kv_heads, 1)
        rows = len(self.tiles) * heads * self._rows[0]
        if self._flat:
            rows = case.tokens * case.heads
        width = -(-case.width // _LANES) * _LANES
        values = -(-case.value_width // _LANES) * _LANES
        writes = 3 * self.chunks or len(self.filled)
        kept = pages * case.page + writes * self._run()
        return kept * case.entry_bytes + 2 * rows * (width + values)

    def passes(self, regions: Sequence[Region]) -> list[int | None]:
        """Counts each region.

        The loops that end at no constant come in this order; those that do are the
        grid's, the one over the tiles of a step, and copies of several parts.
        """
        loops = [i for i, r in enumerate(regions) if r.kind == "loop"]
        steps = len(self.tiles) // self.group
        counts: list[int | None] = [None] * len(regions)
        if steps > 1:
            # Flat queries are copied by the kernel itself: there is no pipeline then.
            counts[loops.pop(0)] = steps + (0 if self._flat else STAGES)
        if rounds := self._rounds(regions, counts):
            loops.remove(rounds)
        free = [i for i in loops if regions[i].limit is None]
        expected = self._loops(regions, free)
        if len(free) != len(expected):
            raise ValueError(
                f"loops {[regions[i].bundles for i in free]} where there should be "
                f"{[name for name, _ in expected]}"
            )
        place: dict[str, int] = {}
        for i, (name, count) in zip(free, expected, strict=True):
            counts[i], place[name] = count, i
            if name == "first pages":
                self._first(regions, counts, i)
        tile = next((i for i in _around(regions, place["blocks"], "loop")), None)
        if tile is not None and tile != 0:
            counts[tile] = len(self.tiles)
        self._branches(regions, counts, place)
        return counts

    def _rounds(
        self, regions: Sequence[Region], counts: list[int | None]
    ) -> int | None:
        """Counts the rounds of writes before attention; returns their loop."""
        stages = min(self.chunks, 16)
        for region in regions:
            parent = region.parent
            if self.chunks and region.limit == stages and region.depth > 1:
                if parent and regions[parent].kind == "loop":
                    counts[parent] = -(-self.chunks // stages)
                    return parent
                return None
        return None

    def _loops(
        self, regions: Sequence[Region], free: Sequence[int]
    ) -> list[tuple[str, int]]:
        """Lists the loops without a constant limit, and how often they run."""
        page, size, piece = self.case.page, self.blocks.keys, self.blocks.piece
        parts = [-(-b.keys // page) if b.keys < size else 0 for b in self.held]
        early = self.blocks.depth - 1
        loops = [("empty tiles", 0)]
        for pages in [*parts, 0, 0][:early]:
            loops += [("first pages", pages), ("empty tiles", 0)]
        tokens = [tile.tokens for tile in self.tiles]
        if self._flat:
            loops += [
                ("first queries", tokens[0]),
                ("queries", sum(tokens[1:])),
                ("queries here", sum(tokens)),
                ("results gone", sum(tokens[:-2])),
            ]
        loops += [
            ("blocks", len(self.held)),
            ("pages", sum(parts[early:])),
            ("empty tiles", len(self.tiles) - len(self.filled)),
            ("waits", sum(parts)),
        ]
        clean = pieces = stripes = stripes_at_once = 0
        rows, stripe = self._rows
        per_token = self.case.heads // max(self.case.kv_heads, 1)
        for block in self.held:
            number = -(-block.keys // piece)
            used = -(-block.tokens * per_token // stripe)
            if block.is_at_once:
                stripes_at_once += used
                continue
            pieces += number
            stripes += number * used
            if block.keys < size:
                clean += -(-number * piece // page) - block.keys // page
        inner = [("clean", clean), ("pieces", pieces)]
        if rows != stripe:
            inner.append(("stripes", stripes))
            together = size if stripe <= _LANES else piece
            whole = [("at once", stripes_at_once)] * (size // together)
            # The compiler may lay either branch first; pieces have stripes inside.
            after = free[len(loops) + 1 : len(loops) + 2]
            is_first = any(
                regions[j].kind == "loop" for i in after for j in _within(regions, i)
            )
            inner = inner + whole if is_first else whole + inner
        loops += inner
        if self._flat:
            ends = [("drain", count) for count in tokens[-2:]]
            loops += [("results", sum(tokens)), *ends]
        return loops

    def _first(
        self, regions: Sequence[Region], counts: list[int | None], pages: int
    ) -> None:
        """Counts what asks for the call's first blocks: once, in the first step."""
        asking = regions[pages].parent
        if asking is not None and regions[asking].kind == "branch":
            for i in (asking, *_within(regions, asking)):
                if regions[i].kind == "branch":
                    counts[i] = 1

    def _branches(
        self,
        regions: Sequence[Region],
        counts: list[int | None],
        place: dict[str, int],
    ) -> None:
        """Counts what a condition may skip inside the loop over tiles."""
        full = sum(block.keys == self.blocks.keys for block in self.held)
        at_once = sum(block.is_at_once for block in self.held)
        issues = max(len(self.held) - self.blocks.depth + 1, 0)
        # What needs no loop: the new entry is put in (decode), then all keys at once.
        loopless = [at_once] if self.chunks else [len(self.filled), at_once]
        for i, region in enumerate(regions):
            if region.kind != "branch" or region.parent != place["blocks"]:
                continue
            inside = _within(regions, i)
            if place["pages"] in inside:
                counts[i] = issues
                for j in inside:
                    if regions[j].kind == "branch":  # a full block's copies
                        counts[j] = min(full, issues)
            elif place["pieces"] in inside:
                counts[i] = len(self.held) - at_once
            elif any(regions[j].kind == "loop" for j in inside):
                counts[i] = at_once
            else:
                counts[i] = loopless.pop(0)
        filled = next(iter(_around(regions, place["blocks"], "branch")), 0)
        is_step = place["first pages"] in _within(regions, filled)
        if regions[filled].kind == "branch" and not is_step:
            counts[filled] = len(self.filled)
            before = regions[filled - 1]
            if before.kind == "branch" and before.parent == regions[filled].parent:
                counts[filled - 1] = len(self.tiles) - len(self.filled)


def _within(regions: Sequence[Region], outer: int) -> list[int]:
    """Lists the regions inside a region."""
    found = []
    for i in range(outer + 1, len(regions)):
        if regions[i].depth <= regions[outer].depth:
            break
        found.append(i)
    return found


def _around(regions: Sequence[Region], inner: int, kind: str) -> list[int]:
    """Lists the regions around a region, innermost first."""
    found: list[int] = []
    parent: Any = regions[inner].parent
    while parent is not None:
        if regions[parent].kind == kind:
            found.append(parent)
        parent = regions[parent].parent
    return found
