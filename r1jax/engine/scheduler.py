"""What runs next: a plan made of Python values, no arrays.

Decodes ride in every step; prompts are fed in chunks beside them, first come, first
served. When pages run out the sequence that was admitted last gives its pages up and
prefills again later, answer so far included, so nothing is lost.

On a mesh that cuts sequences each data shard has slots and pages of its own, and one
step of a common shape; a waiting sequence goes to the shard that has the most room.

A step's tokens are read only after the next step has been planned, so a sequence may
have one token that exists on the device alone (`pending`).
"""

import time
from bisect import insort
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import NamedTuple

from r1jax.cache import Geometry
from r1jax.engine.pages import Pages
from r1jax.engine.types import SamplingParams


@dataclass(eq=False)
class Sequence:
    """One stream of tokens being served.

    Attributes:
      id: The request's.
      tokens: Prompt and answer, as far as the host knows them.
      prompt_length: How many of them are the prompt.
      sampling: How to choose the next one.
      limit: Most tokens the answer may have.
      slot: The row of device state it holds while running.
      shard: The data shard that it runs on.
      home: The device that holds its first pages, of those that share the shard.
      pages: Its pages, in order.
      computed: Tokens whose cache entries are written or being written.
      from_host: Tokens it was admitted with; later ones are read on the device.
      pending: 1 while its newest token is known to the device only.
      finished: True once its last event was sent.
      arrived: When it came, by `time.monotonic`.
      queued: Seconds until it was first admitted; None before.
    """

    id: int
    tokens: list[int]
    prompt_length: int
    sampling: SamplingParams
    limit: int
    slot: int | None = None
    shard: int = 0
    home: int = 0
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    from_host: int = 0
    pending: int = 0
    finished: bool = False
    arrived: float = field(default_factory=time.monotonic)
    queued: float | None = None

    @property
    def answered(self) -> int:
        """Answer tokens so far, the pending one included."""
        return len(self.tokens) + self.pending - self.prompt_length


@dataclass(frozen=True)
class Row:
    """One sequence's share of a step: `count` tokens from position `start` on.

    `samples` is True where the step reaches the sequence's end, so that a next token
    comes out; `decode` where the one token fed is the last one sampled.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    decode: bool


class Share(NamedTuple):
    """One data shard's rows of a step."""

    decodes: list[Row]
    chunks: list[Row]


@dataclass(frozen=True)
class Plan:
    """One step: its rows in the order of `geometry`, without the padding ones."""

    shares: list[Share]
    geometry: Geometry

    def placed(self) -> Iterator[tuple[int, int, Row]]:
        """Yields each row with its number and its first token's place in the step."""
        g = self.geometry
        for shard, share in enumerate(self.shares):
            first_row, first_token = shard * g.rows, shard * g.tokens
            for i, row in enumerate(share.decodes):
                yield first_row + i, first_token + i, row
            for i, row in enumerate(share.chunks):
                token = first_token + g.decodes + i * g.chunk_tokens
                yield first_row + g.decodes + i, token, row


class Shapes:
    """The few step shapes that are compiled, and which one a plan takes.

    Decodes alone come in powers of two up to `max_num_seqs`; chunks ride beside that
    many decodes. Only shapes that were opened are used, and the `first` ones suffice.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        """Lays out the shapes for the engine's limits; none is open yet."""
        most, longest = max_num_seqs, max_num_batched_tokens
        short = min(64, longest)
        several = min(most, longest // short)
        powers = [2**i for i in range(most.bit_length()) if 2**i < most]
        steady = [Geometry(n, 0, 0) for n in (*powers, most)]
        sizes = sorted({(1, short), (several, short), (1, longest)})
        mixed = [Geometry(most, *size) for size in sizes]
        self.first = [mixed[0], steady[-1]]
        self.rest = [g for g in (*steady, *mixed) if g not in self.first]
        self._open: list[Geometry] = []

    def open(self, geometry: Geometry) -> None:
        """Says that a shape is compiled; another thread may be planning."""
        self._open = sorted([*self._open, geometry], key=lambda g: g.tokens)

    def steady(self, decodes: int) -> Geometry:
        """Returns the smallest open shape that holds so many decodes alone."""
        return next(g for g in self._open if not g.chunks and g.decodes >= decodes)

    def mixed(self, left: list[int]) -> Geometry:
        """Returns the open shape for prompts that have so many tokens left.

        One chunk as long as the first prompt needs, or several short ones where that
        serves more prompts at once.
        """
        mixed = [g for g in self._open if g.chunks]
        alone = [g for g in mixed if g.chunks == 1]
        many = max(mixed, key=lambda g: g.chunks)
        served = sum(n <= many.chunk_tokens for n in left[: many.chunks])
        if served > 1 and left[0] <= many.chunk_tokens:
            return many
        return next((g for g in alone if g.chunk_tokens >= left[0]), alone[-1])


class _Shard:
    """The slots, the pages and the running sequences of one data shard."""

    def __init__(self, number: int, pages: Pages, slots: int) -> None:
        self.pages = pages
        self.slots = list(range((number + 1) * slots - 1, number * slots - 1, -1))
        self.running: list[Sequence] = []

    @property
    def feeding(self) -> list[Sequence]:
        """Sequences with tokens left to feed."""
        return [s for s in self.running if s.computed < s.from_host]

    @property
    def room(self) -> tuple[bool, int]:
        """Orders shards by what a new sequence finds there."""
        return bool(self.slots), self.pages.free

    def release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pages.release(sequence.pages, sequence.home)
        assert sequence.slot is not None
        self.slots.append(sequence.slot)
        sequence.slot = None


class Scheduler:
    """The waiting and the running sequences, their slots and their pages."""

    def __init__(self, pages: Several[Pages], shapes: Shapes, slots: int) -> None:
        """Starts with nothing to do.

        Args:
          pages: Of each data shard.
          shapes: Of a data shard's step.
          slots: Sequences that run at once on a data shard.
        """
        self.shapes = shapes
        self.waiting: list[Sequence] = []
        self.preemptions = 0
        self._shards = [_Shard(i, each, slots) for i, each in enumerate(pages)]

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have slots."""
        return [s for shard in self._shards for s in shard.running]

    @property
    def pages_used(self) -> int:
        """Pages that belong to a sequence, on all devices."""
        return sum(shard.pages.used for shard in self._shards)

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence that has finished or was cancelled."""
        if sequence.slot is not None:
            self._shards[sequence.shard].release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def plan(self) -> Plan | None:
        """Plans the next step, and counts its tokens as computed; None if idle."""
        decodes = [self._decodes(shard) for shard in self._shards]
        self._admit()
        left = [[s.from_host - s.computed for s in x.feeding] for x in self._shards]
        most = max(map(len, decodes))
        if any(left):
            geometry = self.shapes.mixed(max(left, key=sum))
        elif most:
            geometry = self.shapes.steady(most)
        else:
            return None
        chunks = [_chunks(shard.feeding, geometry) for shard in self._shards]
        plan = Plan(
            [Share(*share) for share in zip(decodes, chunks, strict=True)], geometry
        )
        for _, _, row in plan.placed():
            row.sequence.computed += row.count
            row.sequence.pending += row.samples
        return plan

    def _decodes(self, shard: _Shard) -> list[Row]:
        ready = [s for s in shard.running if s.computed >= s.from_host]
        rows: list[Row] = []
        for sequence in ready:
            if sequence.slot is None or sequence.answered >= sequence.limit:
                continue  # preempted just now, or waiting for its last token
            known = sequence.computed + 1
            while not shard.pages.grow(sequence.pages, known, sequence.home):
                victim = shard.running[-1]
                self._preempt(shard, victim)
                if victim is sequence:
                    break
            else:
                rows.append(Row(sequence, sequence.computed, 1, True, True))
        return rows

    def _admit(self) -> None:
        """Gives slots and pages to waiting sequences, in order, while they last."""
        while self.waiting:
            sequence, known = self.waiting[0], len(self.waiting[0].tokens)
            if sequence.pending:
                return
            number = max(range(len(self._shards)), key=lambda i: self._shards[i].room)
            shard = self._shards[number]
            home = shard.pages.best_home()
            if not shard.slots or not shard.pages.grow(sequence.pages, known, home):
                return
            self.waiting.pop(0)
            sequence.slot, sequence.shard = shard.slots.pop(), number
            sequence.home = home
            sequence.computed, sequence.from_host = 0, known
            if sequence.queued is None:
                sequence.queued = time.monotonic() - sequence.arrived
            shard.running.append(sequence)

    def _preempt(self, shard: _Shard, sequence: Sequence) -> None:
        shard.release(sequence)
        insort(self.waiting, sequence, key=lambda s: s.id)
        self.preemptions += 1


def _chunks(feeding: list[Sequence], geometry: Geometry) -> list[Row]:
    """Feeds the first few sequences the next piece of what they were admitted with."""
    rows = []
    for sequence in feeding[: geometry.chunks]:
        left = sequence.from_host - sequence.computed
        count = min(left, geometry.chunk_tokens)
        rows.append(Row(sequence, sequence.computed, count, count == left, False))
    return rows
