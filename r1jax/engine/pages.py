"""Which pages of the pool are free, whose the others are, and what they are known by.

A full page is named by a hash of its tokens and of the name before it, so equal names
mean equal tokens from a sequence's beginning on. A sequence whose tokens begin like
another's holds the same pages. A named page that nobody holds stays findable until its
room is needed; then the one that was let go first goes first.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from r1jax.cache import Pools, shares
from r1jax.config import ModelConfig
from r1jax.engine.types import EngineOptions
from r1jax.errors import ConfigError
from r1jax.target import Target

_NAME_BYTES = 16  # a client must not find two prompts of one name


def name_pages(names: list[bytes], tokens: Sequence[int], page_size: int) -> None:
    """Extends `names` to all full pages of a sequence's tokens, each hashed once."""
    for end in range((len(names) + 1) * page_size, len(tokens) + 1, page_size):
        ids = array("i", tokens[end - page_size : end]).tobytes()
        before = names[-1] if names else b""
        names.append(blake2b(before + ids, digest_size=_NAME_BYTES).digest())


class _Device:
    """The pages of one device: each is free, idle (named, but nobody's) or held."""

    def __init__(self, each: int) -> None:
        self.free = list(range(each - 1, 0, -1))
        self.idle: OrderedDict[int, None] = OrderedDict()  # first let go first
        self.holders = [0] * each
        self.page_of: dict[bytes, int] = {}
        self.name_of: dict[int, bytes] = {}

    @property
    def room(self) -> int:
        return len(self.free) + len(self.idle)

    def take(self) -> int:
        """Returns a page without a name, now held once."""
        if self.free:
            page = self.free.pop()
        else:
            page, _ = self.idle.popitem(last=False)
            del self.page_of[self.name_of.pop(page)]
        self.holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        self.idle.pop(page, None)
        self.holders[page] += 1

    def drop(self, page: int) -> None:
        self.holders[page] -= 1
        if not self.holders[page]:
            if page in self.name_of:
                self.idle[page] = None
            else:
                self.free.append(page)

    def forget(self) -> None:
        """Takes all names away: what nobody holds is free and cannot be found."""
        self.free.extend(self.idle)
        self.idle.clear()
        self.page_of.clear()
        self.name_of.clear()

    def faults(self, held: Counter[int]) -> list[str]:
        """Says which pages are not exactly one of free, idle and held."""
        free, pages = Counter(self.free), range(1, len(self.holders))
        found = [] if self.holders[0] == 0 else ["page 0 is held"]
        for page in pages:
            state = (free[page], int(page in self.idle), int(held[page] > 0))
            named = page in self.name_of
            if (
                sum(state) != 1
                or self.holders[page] != held[page]
                or (state[0] and named)
                or (state[1] and not named)
            ):
                found.append(
                    f"page {page}: free {state[0]} times, idle {state[1]}, held by "
                    f"{held[page]} and counted as {self.holders[page]}, named {named}"
                )
        back = {page: name for name, page in self.page_of.items()}
        if back != self.name_of or not set(free) | set(self.idle) <= set(pages):
            found.append("names and pages do not belong together")
        return found


class Pages:
    """Hands out page numbers of one data shard; page 0 is never handed out.

    Where devices share the shard's sequences, each has pages of its own, and a
    sequence's segments lie on one after the other, from its home on (the picture is in
    r1jax/cache.py). Padding writes to page 0.
    """

    def __init__(
        self, each: int, page_size: int, devices: int = 1, columns: int = 1
    ) -> None:
        """Starts with pages 1 to `each - 1` of every device free.

        Args:
          each: Pages of each device.
          page_size: Tokens in a page.
          devices: How many share the sequences.
          columns: Pages of the longest sequence, a multiple of `devices`.
        """
        if each < 2:
            raise ConfigError(
                f"a pool of {each} pages",
                "page 0 is kept for padding, so at least 2 are needed",
                "give the cache more memory or choose a smaller page_size",
            )
        self.page_size = page_size
        self.total = (each - 1) * devices
        self._segment = columns // devices
        self._devices = [_Device(each) for _ in range(devices)]

    @property
    def free(self) -> int:
        """Pages that nobody holds, those that can still be found included."""
        return sum(device.room for device in self._devices)

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return self.total - self.free

    def needed(self, tokens: int) -> int:
        """Returns how many pages hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    @property
    def homes(self) -> range:
        """The devices that a sequence may begin on."""
        return range(len(self._devices))

    def room(self, home: int) -> int:
        """Returns how many pages of one device nobody holds."""
        return self._devices[home].room

    def device(self, home: int, column: int) -> int:
        """Returns the device that holds a page of a sequence, by the page's place."""
        devices = len(self._devices)
        return home if devices == 1 else (home + column // self._segment) % devices

    def find(self, names: Sequence[bytes], home: int) -> int:
        """Returns how many of a sequence's first pages are there, for that home."""
        for column, name in enumerate(names):
            if name not in self._devices[self.device(home, column)].page_of:
                return column
        return len(names)

    def share(self, owned: list[int], names: Sequence[bytes], home: int) -> None:
        """Holds the pages of these names, which `find` has found, as a sequence's."""
        for column, name in enumerate(names):
            device = self._devices[self.device(home, column)]
            device.hold(device.page_of[name])
            owned.append(device.page_of[name])

    def name(
        self, owned: Sequence[int], names: Sequence[bytes], columns: range, home: int
    ) -> None:
        """Makes a sequence's pages in these columns findable, if their like is not."""
        for column in columns:
            device = self._devices[self.device(home, column)]
            page, name = owned[column], names[column]
            if name not in device.page_of:
                device.page_of[name], device.name_of[page] = page, name

    def grow(self, owned: list[int], tokens: int, home: int = 0) -> bool:
        """Extends `owned` until it holds `tokens` tokens; False if pages run out.

        On False nothing has changed.
        """
        if len(owned) * self.page_size >= tokens:
            return True
        columns = range(len(owned), self.needed(tokens))
        devices = [self.device(home, column) for column in columns]
        if any(n > self._devices[i].room for i, n in Counter(devices).items()):
            return False
        owned.extend(self._devices[i].take() for i in devices)
        return True

    def release(self, owned: list[int], home: int = 0) -> None:
        """Lets a sequence's pages go, the last one first, and empties its list."""
        for column in range(len(owned) - 1, -1, -1):
            self._devices[self.device(home, column)].drop(owned[column])
        owned.clear()

    def forget(self) -> None:
        """Makes nothing findable any more; what sequences hold stays theirs."""
        for device in self._devices:
            device.forget()

    def audit(self, sequences: Iterable[tuple[Sequence[int], int]]) -> None:
        """Checks that every page is free, idle or held, and by as many as is counted.

        Args:
          sequences: The pages and the home of every sequence that holds some.

        Raises:
          AssertionError: Names the pages of which this is not so.
        """
        held = [Counter[int]() for _ in self._devices]
        for owned, home in sequences:
            for column, page in enumerate(owned):
                held[self.device(home, column)][page] += 1
        faults = [
            f"device {i}, {fault}"
            for i, device in enumerate(self._devices)
            for fault in device.faults(held[i])
        ]
        if faults:
            raise AssertionError("; ".join(faults))


def cut(
    config: ModelConfig, options: EngineOptions, pools: Pools, target: Target
) -> tuple[int, list[Pages]]:
    """Returns the page table's columns, and the pages of each data shard.

    Raises:
      ConfigError: One request at full length would not fit.
    """
    size = options.page_size
    shards, devices = shares(config, target)
    each = next(iter(pools.values())).shape[1] // (shards * devices)
    segment = -(-options.max_model_len // (size * devices))
    if segment > each - 1:
        holds = (each - 1) * size * devices
        raise ConfigError(
            f"{(each - 1) * devices} pages of {size} tokens for a context of "
            f"{options.max_model_len}",
            "one request at full length would not fit in the cache",
            f"lower max_model_len to {holds}, or give the cache more memory",
        )
    columns = segment * devices
    return columns, [Pages(each, size, devices, columns) for _ in range(shards)]
