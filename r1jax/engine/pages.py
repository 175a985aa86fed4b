"""Which pages of the pool are free, and whose the others are."""

from r1jax.errors import ConfigError


class Pages:
    """Hands out page numbers; page 0 is never handed out (padding writes there)."""

    def __init__(self, total: int, page_size: int) -> None:
        """Starts with pages 1 to `total - 1` free."""
        if total < 2:
            raise ConfigError(
                f"a pool of {total} pages",
                "page 0 is kept for padding, so at least 2 are needed",
                "give the cache more memory or choose a smaller page_size",
            )
        self.page_size = page_size
        self.total = total - 1
        self._free = list(range(total - 1, 0, -1))

    @property
    def used(self) -> int:
        """Pages that belong to a sequence."""
        return self.total - len(self._free)

    def needed(self, tokens: int) -> int:
        """Returns how many pages hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def grow(self, owned: list[int], tokens: int) -> bool:
        """Extends `owned` until it holds `tokens` tokens; False if pages run out.

        On False nothing has changed.
        """
        missing = self.needed(tokens) - len(owned)
        if missing > len(self._free):
            return False
        owned.extend(self._free.pop() for _ in range(missing))
        return True

    def release(self, owned: list[int]) -> None:
        """Takes a sequence's pages back and empties its list."""
        self._free.extend(reversed(owned))
        owned.clear()
