"""Which pages of the pool are free, and whose the others are."""

from collections import Counter

from r1jax.cache import Pools, shares
from r1jax.config import ModelConfig
from r1jax.engine.types import EngineOptions
from r1jax.errors import ConfigError
from r1jax.target import Target


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
        self._free = [list(range(each - 1, 0, -1)) for _ in range(devices)]

    @property
    def free(self) -> int:
        """Pages that belong to nobody."""
        return sum(map(len, self._free))

    @property
    def used(self) -> int:
        """Pages that belong to a sequence."""
        return self.total - self.free

    def needed(self, tokens: int) -> int:
        """Returns how many pages hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def best_home(self) -> int:
        """Returns the device with the most free pages."""
        return max(range(len(self._free)), key=lambda i: len(self._free[i]))

    def device(self, home: int, column: int) -> int:
        """Returns the device that holds a page of a sequence, by the page's place."""
        devices = len(self._free)
        return home if devices == 1 else (home + column // self._segment) % devices

    def grow(self, owned: list[int], tokens: int, home: int = 0) -> bool:
        """Extends `owned` until it holds `tokens` tokens; False if pages run out.

        On False nothing has changed.
        """
        columns = range(len(owned), self.needed(tokens))
        devices = [self.device(home, column) for column in columns]
        if any(n > len(self._free[i]) for i, n in Counter(devices).items()):
            return False
        owned.extend(self._free[i].pop() for i in devices)
        return True

    def release(self, owned: list[int], home: int = 0) -> None:
        """Takes a sequence's pages back and empties its list."""
        for column, page in reversed(list(enumerate(owned))):
            self._free[self.device(home, column)].append(page)
        owned.clear()


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
