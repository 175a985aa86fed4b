"""What runs next: a plan made of Python values, no arrays.

Sequences are ranked by priority, then by arrival. Decodes ride in every step; prompts
are fed in chunks beside them. When pages run out the sequence of the worst rank gives
its pages up and comes back later, answer so far included, so nothing is lost. One of
strictly better priority that waits takes slots and pages from those of worse.

A sequence begins with the pages that others have filled with the same tokens. Steps run
in order, so a page can be shared as soon as the step that fills it is planned; who
finds its next page about to be filled waits for that, and lets others pass.

On a mesh that cuts sequences each data shard has slots and pages of its own, and one
step of a common shape; a waiting sequence goes where most of its pages are, then where
there is the most room.

A step's tokens are read only after the next step has been planned, so a sequence may
have one token that exists on the device alone (`pending`).
"""

from bisect import insort
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from r1jax.cache import Geometry
from r1jax.engine.pages import Pages, name_pages
from r1jax.engine.shard import Shard
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
      names: Of its full pages, as far as they were needed.
      named: How many of its pages were made findable, or were found.
      found: Tokens that were in the cache when it was last admitted.
      cached: The same of its first admission; None before that.
      awaits: Who was filling its next page when it was last looked for.
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
    names: list[bytes] = field(default_factory=list)
    named: int = 0
    found: int = 0
    cached: int | None = None
    awaits: "Sequence | None" = field(default=None, repr=False)

    @property
    def rank(self) -> tuple[int, int]:
        """Orders sequences, the best first."""
        return self.sampling.priority, self.id

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
        serves more prompts at once. What two steps with less padding hold is not put
        into one: a prompt that has found its beginning has little left.
        """
        mixed = [g for g in self._open if g.chunks]
        alone = [g for g in mixed if g.chunks == 1]
        many = max(mixed, key=lambda g: g.chunks)
        served = sum(n <= many.chunk_tokens for n in left[: many.chunks])
        if served > 1 and left[0] <= many.chunk_tokens:
            return many
        two = [g for g in alone if 2 * g.chunk_tokens >= left[0]]
        return min(two, key=lambda g: _padded(left[0], g), default=alone[-1])


def _padded(tokens: int, g: Geometry) -> tuple[int, int]:
    """Returns how much a prompt is with padding, then in how many steps."""
    steps = -(-tokens // g.chunk_tokens)
    return steps * g.chunk_tokens, steps


class Scheduler:
    """The waiting and the running sequences, their slots and their pages.

    Attributes:
      waiting: The best rank first.
      preemptions: How often a running sequence had to wait again.
      prefix_queries: Prompt tokens that were looked for in the cache.
      prefix_hits: Those that were found.
    """

    def __init__(
        self,
        pages: Several[Pages],
        shapes: Shapes,
        slots: int,
        prefix_caching: bool = True,
    ) -> None:
        """Starts with nothing to do.

        Args:
          pages: Of each data shard.
          shapes: Of a data shard's step.
          slots: Sequences that run at once on a data shard.
          prefix_caching: Whether pages are shared and kept to be found.
        """
        self.shapes = shapes
        self.waiting: list[Sequence] = []
        self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self._caching, self._shortest = prefix_caching, False
        self._size = pages[0].page_size
        self._shards = [Shard(i, each, slots) for i, each in enumerate(pages)]

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have slots."""
        return [s for shard in self._shards for s in shard.running]

    @property
    def pages_used(self) -> int:
        """Pages that sequences hold, on all devices."""
        return sum(shard.pages.used for shard in self._shards)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence by its rank."""
        insort(self.waiting, sequence, key=lambda s: s.rank)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence that has finished or was cancelled; its pages are kept."""
        if sequence.slot is not None:
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def audit(self) -> None:
        """Checks every page of every shard; see `Pages.audit`."""
        for shard in self._shards:
            shard.pages.audit([(s.pages, s.home) for s in shard.running])

    def plan(self) -> Plan | None:
        """Plans the next step, and counts its tokens as computed; None if idle."""
        decodes = [self._decodes(shard) for shard in self._shards]
        self._admit(decodes)
        feeding = [shard.feeding(self._shortest) for shard in self._shards]
        self._shortest = not self._shortest
        left = [[s.from_host - s.computed for s in each] for each in feeding]
        most = max(map(len, decodes))
        if any(left):
            geometry = self.shapes.mixed(max(left, key=sum))
        elif most:
            geometry = self.shapes.steady(most)
        else:
            return None
        chunks = [_chunks(each, geometry) for each in feeding]
        plan = Plan(
            [Share(*share) for share in zip(decodes, chunks, strict=True)], geometry
        )
        for _, _, row in plan.placed():
            row.sequence.computed += row.count
            row.sequence.pending += row.samples
            if self._caching:
                self._shards[row.sequence.shard].name(row.sequence)
        return plan

    def _decodes(self, shard: Shard) -> list[Row]:
        ready = [s for s in shard.running if s.computed >= s.from_host]
        rows: list[Row] = []
        for sequence in ready:
            if sequence.slot is None or sequence.answered >= sequence.limit:
                continue  # preempted just now, or waiting for its last token
            known = sequence.computed + 1
            while not shard.pages.grow(sequence.pages, known, sequence.home):
                victim = shard.running[-1]
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                rows.append(Row(sequence, sequence.computed, 1, True, True))
        return rows

    def _admit(self, decodes: list[list[Row]]) -> None:
        """Gives slots and pages to waiting sequences, in order, while they last.

        Those of strictly better priority take them from running ones, whose rows are
        then taken out of `decodes`.
        """
        filled: dict[bytes, Sequence] = {}
        for shard in self._shards:
            if self.waiting and shard.slots:
                for sequence in shard.running:
                    self._note_filled(sequence, filled)
        at = 0
        while at < len(self.waiting):
            sequence = self.waiting[at]
            if sequence.pending:
                return
            if self._awaits(sequence, filled):
                at += 1
            elif self._place(sequence) or self._make_room(sequence, decodes):
                self.waiting.pop(at)
                self._note_filled(sequence, filled)
            else:
                return

    def _note_filled(self, sequence: Sequence, filled: dict[bytes, Sequence]) -> None:
        """Notes the page that a sequence's next chunk goes on filling."""
        column = sequence.computed // self._size
        if column < min(len(sequence.names), sequence.from_host // self._size):
            filled.setdefault(sequence.names[column], sequence)

    def _awaits(self, sequence: Sequence, filled: dict[bytes, Sequence]) -> bool:
        """Says whether one of no worse priority is filling a sequence's next page.

        The page where its filler has come to is tried first: that is one look for each
        of the many that wait for the same beginning.
        """
        if not filled:
            return False
        names, filler = self._names(sequence), sequence.awaits
        column = filler.computed // self._size if filler else len(names)
        if column >= len(names) or names[column] not in filled:
            column = max((place[0] for place in self._places(names)), default=0)
        filler = filled.get(names[column]) if column < len(names) else None
        sequence.awaits = filler
        priority = sequence.sampling.priority
        return filler is not None and filler.sampling.priority <= priority

    def _reads(self, sequence: Sequence) -> bool:
        return self._caching and sequence.sampling.prompt_logprobs is None

    def _names(self, sequence: Sequence) -> list[bytes]:
        """Names the pages to look for: all but that of the last token, which is fed."""
        if self._caching:
            name_pages(sequence.names, sequence.tokens, self._size)
        last = (len(sequence.tokens) - 1) // self._size
        return sequence.names[:last] if self._reads(sequence) else []

    def _places(self, names: list[bytes]) -> list[tuple[int, int, int]]:
        """Returns (pages found, shard, home) wherever there is a slot, the best first.

        Most pages found count first, then the room on the shard, then on the home.
        """
        places = []
        for shard in self._shards:
            for home in shard.pages.homes if shard.slots else ():
                found, pages = shard.pages.find(names, home), shard.pages
                room = pages.free, pages.room(home)
                places.append((found, room, shard.number, home))
        places.sort(key=lambda place: place[:2], reverse=True)
        return [(found, number, home) for found, _, number, home in places]

    def _place(self, sequence: Sequence) -> bool:
        """Lets a sequence run at the best place that has the pages; False if none."""
        names = self._names(sequence)
        for found, number, home in self._places(names):
            if self._shards[number].admit(sequence, names[:found], home):
                sequence.awaits = None
                if sequence.cached is None:
                    sequence.cached = sequence.found
                    self.prefix_hits += sequence.found
                    if self._reads(sequence):
                        self.prefix_queries += sequence.prompt_length
                return True
        return False

    def _make_room(self, sequence: Sequence, decodes: list[list[Row]]) -> bool:
        """Lets a sequence run in place of others of worse priority, if that suffices.

        If it does not, it comes before them when others end.
        """
        for shard in sorted(self._shards, key=Shard.worst, reverse=True):
            while shard.worst() > (sequence.sampling.priority, inf):
                victim = shard.running[-1]
                self._preempt(victim)
                mine = decodes[shard.number]
                mine[:] = [row for row in mine if row.sequence is not victim]
                if self._place(sequence):
                    return True
        return False

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.add(sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        shard = self._shards[sequence.shard]
        if self._caching:
            shard.name(sequence)
        shard.release(sequence)


def _chunks(feeding: list[Sequence], geometry: Geometry) -> list[Row]:
    """Feeds the first few sequences the next piece of what they were admitted with."""
    rows = []
    for sequence in feeding[: geometry.chunks]:
        left = sequence.from_host - sequence.computed
        count = min(left, geometry.chunk_tokens)
        rows.append(Row(sequence, sequence.computed, count, count == left, False))
    return rows
