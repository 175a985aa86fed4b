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
    """The few step shapes that are compiled, and which one a plan takes."""

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        """Lays out the shapes for the engine's limits."""
        self.decodes = [
            *[2**i for i in range(max_num_seqs.bit_length()) if 2**i < max_num_seqs],
            max_num_seqs,
        ]
        short = min(64, max_num_batched_tokens)
        several = min(max_num_seqs, max_num_batched_tokens // short)
        chunks = {(1, short), (several, short), (1, max_num_batched_tokens)}
        self.chunks = sorted(chunks, key=lambda c: (c[0] * c[1], c[0]))

    def all(self) -> list[Geometry]:
        """Returns every shape a plan can have."""
        steady = [Geometry(n, 0, 0) for n in self.decodes]
        return steady + [Geometry(self.decodes[-1], *chunk) for chunk in self.chunks]

    def chunk_for(self, waiting: list[int]) -> tuple[int, int]:
        """Returns (chunks, tokens in each) for prompts with so many tokens left.

        One chunk as long as the first prompt needs, or several short ones where that
        serves more prompts at once.
        """
        first = waiting[0]
        alone = [c for c in self.chunks if c[0] == 1]
        fitting = next((c for c in alone if c[1] >= first), alone[-1])
        many = max(self.chunks, key=lambda c: c[0])
        served = sum(n <= many[1] for n in waiting[: many[0]])
        return many if first <= many[1] and served > 1 else fitting

    def geometry(self, decodes: int, chunk: tuple[int, int]) -> Geometry:
        """Returns the smallest compiled shape that holds so many decodes."""
        if not chunk[0]:
            return Geometry(next(n for n in self.decodes if n >= decodes), 0, 0)
        return Geometry(self.decodes[-1], *chunk)


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
        chunks, chunk = self._chunks()
        if not decodes and not chunks:
            return None
        for row in (*decodes, *chunks):
            row.sequence.computed += row.count
            row.sequence.pending += row.samples
        return Plan(decodes, chunks, self.shapes.geometry(len(decodes), chunk))

    def _decodes(self) -> list[Row]:
        ready = [s for s in self.running if s.computed >= s.from_host]
        rows = []
        for sequence in ready:
            if sequence.slot is None or sequence.answered >= sequence.limit:
                continue  # preempted just now, or waiting for its last token
            while not self.pages.grow(sequence.pages, sequence.computed + 1):
                victim = self.running[-1]
                self._preempt(victim)
                rows = [row for row in rows if row.sequence is not victim]
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

    def _chunks(self) -> tuple[list[Row], tuple[int, int]]:
        feeding = [s for s in self.running if s.computed < s.from_host]
        if not feeding:
            return [], (0, 0)
        left = [s.from_host - s.computed for s in feeding]
        chunk = self.shapes.chunk_for(left)
        rows = []
        for sequence, n in zip(feeding[: chunk[0]], left, strict=False):
            count = min(n, chunk[1])
            rows.append(Row(sequence, sequence.computed, count, count == n, False))
        return rows, chunk

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.computed = sequence.from_host = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pages.release(sequence.pages)
        assert sequence.slot is not None
        self._slots.append(sequence.slot)
        sequence.slot = None
