"""What runs next: a plan made of Python values, no arrays.

Decodes ride in every step; prompts are fed in chunks beside them, first come, first
served. When pages run out the sequence that was admitted last gives its pages up and
prefills again later, answer so far included, so nothing is lost.

A step's tokens are read only after the next step has been planned, so a sequence may
have one token that exists on the device alone (`pending`).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

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
      pages: Its pages, in order.
      computed: Tokens whose cache entries are written or being written.
      from_host: Tokens it was admitted with; later ones are read on the device.
      pending: 1 while its newest token is known to the device only.
      finished: True once its last event was sent.
    """

    id: int
    tokens: list[int]
    prompt_length: int
    sampling: SamplingParams
    limit: int
    slot: int | None = None
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    from_host: int = 0
    pending: int = 0
    finished: bool = False

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


@dataclass(frozen=True)
class Plan:
    """One step: its rows in the order of `geometry`, without the padding ones."""

    decodes: list[Row]
    chunks: list[Row]
    geometry: Geometry

    def placed(self) -> Iterator[tuple[int, int, Row]]:
        """Yields each row with its number and its first token's place in the step."""
        g = self.geometry
        for i, row in enumerate(self.decodes):
            yield i, i, row
        for i, row in enumerate(self.chunks):
            yield g.decodes + i, g.decodes + i * g.chunk_tokens, row


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


class Scheduler:
    """The waiting and the running sequences, their slots and their pages."""

    def __init__(self, pages: Pages, shapes: Shapes, slots: int) -> None:
        """Starts with nothing to do."""
        self.pages = pages
        self.shapes = shapes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._slots = list(range(slots - 1, -1, -1))

    def add(self, sequence: Sequence) -> None:
        """Queues a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence that has finished or was cancelled."""
        if sequence in self.running:
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def plan(self) -> Plan | None:
        """Plans the next step, and counts its tokens as computed; None if idle."""
        decodes = self._decodes()
        self._admit()
        feeding = [s for s in self.running if s.computed < s.from_host]
        if feeding:
            left = [s.from_host - s.computed for s in feeding]
            geometry = self.shapes.mixed(left)
            chunks = _chunks(feeding, geometry)
        elif decodes:
            geometry, chunks = self.shapes.steady(len(decodes)), []
        else:
            return None
        for row in (*decodes, *chunks):
            row.sequence.computed += row.count
            row.sequence.pending += row.samples
        return Plan(decodes, chunks, geometry)

    def _decodes(self) -> list[Row]:
        ready = [s for s in self.running if s.computed >= s.from_host]
        rows: list[Row] = []
        for sequence in ready:
            if sequence.slot is None or sequence.answered >= sequence.limit:
                continue  # preempted just now, or waiting for its last token
            while not self.pages.grow(sequence.pages, sequence.computed + 1):
                victim = self.running[-1]
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                rows.append(Row(sequence, sequence.computed, 1, True, True))
        return rows

    def _admit(self) -> None:
        """Gives slots and pages to waiting sequences, in order, while they last."""
        while self.waiting and self._slots:
            sequence = self.waiting[0]
            known = len(sequence.tokens)
            if sequence.pending or not self.pages.grow(sequence.pages, known):
                return
            self.waiting.popleft()
            sequence.slot = self._slots.pop()
            sequence.computed, sequence.from_host = 0, known
            self.running.append(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pages.release(sequence.pages)
        assert sequence.slot is not None
        self._slots.append(sequence.slot)
        sequence.slot = None


def _chunks(feeding: list[Sequence], geometry: Geometry) -> list[Row]:
    """Feeds the first few sequences the next piece of what they were admitted with."""
    rows = []
    for sequence in feeding[: geometry.chunks]:
        left = sequence.from_host - sequence.computed
        count = min(left, geometry.chunk_tokens)
        rows.append(Row(sequence, sequence.computed, count, count == left, False))
    return rows
