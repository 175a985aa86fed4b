"""One data shard: who runs there, and with which slot and pages."""

from bisect import insort

from r1jax.engine.pages import Pages, name_pages
from r1jax.engine.plans import Sequence


class Shard:
    """The slots, the pages and the running sequences of one data shard.

    Attributes:
      number: Of the shard.
      pages: Its pages.
      slots: Those that nobody holds, by their numbers among all shards'.
      running: Who holds the others, the best rank first.
    """

    def __init__(self, number: int, pages: Pages, slots: int) -> None:
        """Starts with nobody running and `slots` slots."""
        self.number, self.pages = number, pages
        self.slots = list(range((number + 1) * slots - 1, number * slots - 1, -1))
        self.running: list[Sequence] = []

    def feeding(self, shortest: bool) -> list[Sequence]:
        """Returns sequences with tokens left to feed, in the order of their turns.

        The best rank goes first, or of its priority the one that has the least left.
        """
        feeding = [s for s in self.running if s.computed < s.from_host]
        if shortest and len(feeding) > 1:
            first = feeding[0].sampling.priority
            equals = (s for s in feeding if s.sampling.priority == first)
            least = min(equals, key=lambda s: s.from_host - s.computed)
            feeding.remove(least)
            feeding.insert(0, least)
        return feeding

    def worst(self) -> tuple[float, ...]:
        """Returns the rank of who is preempted first; less than any if nobody runs."""
        return self.running[-1].rank if self.running else ()

    def admit(self, sequence: Sequence, found: list[bytes], home: int) -> bool:
        """Gives a slot, the pages found and new ones; False if pages do not suffice."""
        known, owned = len(sequence.tokens), sequence.pages
        self.pages.share(owned, found, home)
        if not self.pages.grow(owned, known, home):
            self.pages.release(owned, home)
            return False
        sequence.slot = self.slots.pop()
        sequence.shard, sequence.home = self.number, home
        sequence.named = len(found)
        sequence.found = sequence.named * self.pages.page_size
        sequence.computed, sequence.from_host = sequence.found, known
        insort(self.running, sequence, key=lambda s: s.rank)
        return True

    def name(self, sequence: Sequence) -> None:
        """Makes pages findable whose tokens are known and planned to be computed."""
        size = self.pages.page_size
        full = min(sequence.computed, len(sequence.tokens)) // size
        if full > sequence.named:
            name_pages(sequence.names, sequence.tokens, size)
            columns = range(sequence.named, full)
            self.pages.name(sequence.pages, sequence.names, columns, sequence.home)
            sequence.named = full

    def release(self, sequence: Sequence) -> None:
        """Takes a sequence's slot back and lets its pages go."""
        self.running.remove(sequence)
        self.pages.release(sequence.pages, sequence.home)
        assert sequence.slot is not None
        self.slots.append(sequence.slot)
        sequence.slot = None
