"""Guides that need no words: their masks depend on what was said before."""

import numpy as np

from r1jax.engine.guides import mask_of


class Turns:
    """Allows even and odd tokens in turn, and none twice in a row of three."""

    binds = True

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary, self._said = vocabulary, []

    def mask(self) -> np.ndarray:
        first = (self._said[-1] + 1) % 2 if self._said else 0
        tokens = set(range(first, self._vocabulary, 2)) - set(self._said[-2:])
        return mask_of(tokens, self._vocabulary)

    def advance(self, token: int) -> None:
        assert self.mask()[token // 32] >> np.uint32(token % 32) & 1
        self._said.append(token)


class Swings:
    """Leaves everything open, then nothing but two tokens, one after the other."""

    def __init__(self, one: int, other: int, vocabulary: int, free: int = 3) -> None:
        self._pair = [mask_of([token], vocabulary) for token in (one, other)]
        self._free, self._said = free, 0

    @property
    def binds(self) -> bool:
        return self._said + 1 >= self._free

    def mask(self) -> np.ndarray | None:
        return None if self._said < self._free else self._pair[self._said % 2]

    def advance(self, token: int) -> None:
        self._said += 1


class Ends:
    """Allows nothing once so many tokens were said; or raises."""

    binds = True

    def __init__(self, after: int, vocabulary: int, raises: bool = False) -> None:
        self._left, self._vocabulary, self._raises = after, vocabulary, raises

    def mask(self) -> np.ndarray:
        if self._raises and not self._left:
            raise RuntimeError("the grammar is lost")
        return mask_of(range(self._vocabulary if self._left else 0), self._vocabulary)

    def advance(self, token: int) -> None:
        self._left -= 1
