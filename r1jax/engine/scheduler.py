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

import time
from bisect import insort
from collections.abc import Sequence as Several
from math import inf

from r1jax.cache import Geometry
from r1jax.engine.pages import Pages, name_pages
from r1jax.engine.plans import Plan, Row, Sequence, Share
from r1jax.engine.shapes import Shapes
from r1jax.engine.shard import Shard


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

    def forget(self) -> None:
        """Makes no page findable any more: the weights that filled them are gone."""
        for shard in self._shards:
            shard.pages.forget()

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
        scores = False
        if any(left):
            scores = any(s.scores for each in feeding for s in each)
            geometry = self.shapes.mixed(max(left, key=sum), most, scores)
        elif most:
            longest = max(row.count for rows in decodes for row in rows)
            geometry = self.shapes.steady(most, longest)
        else:
            return None
        chunks = [_chunks(each, geometry) for each in feeding]
        plan = Plan(
            [Share(*share) for share in zip(decodes, chunks, strict=True)],
            geometry,
            scores,
        )
        for _, _, row in plan.placed():
            # Guesses count as computed when they have been accepted.
            row.sequence.computed += row.count - len(row.drafts)
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
            if sequence.waits:
                continue
            known, drafts = sequence.computed + 1, self._drafts(shard, sequence)
            while not shard.pages.grow(sequence.pages, known, sequence.home):
                victim = shard.running[-1]
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                count = 1 + len(drafts)
                rows.append(Row(sequence, sequence.computed, count, True, True, drafts))
        return rows

    def _drafts(self, shard: Shard, sequence: Sequence) -> tuple[int, ...]:
        """Takes a sequence's guesses, as far as its limit and the free pages go."""
        drafts = tuple(sequence.drafts[: sequence.limit - sequence.answered - 1])
        sequence.drafts = []
        known = sequence.computed + 1 + len(drafts)
        fits = shard.pages.grow(sequence.pages, known, sequence.home)
        return drafts if fits else ()

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
                    sequence.queued = time.monotonic() - sequence.arrived
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
