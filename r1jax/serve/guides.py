"""Joins the rules that one answer follows."""

import numpy as np

from r1jax.engine.guides import Guide


def both(first: Guide | None, second: Guide | None) -> Guide | None:
    """Joins two guides; where nothing satisfies both, the first one rules."""
    if first is None or second is None:
        return first or second
    return _Both(first, second)


class _Both:
    """Two guides at once."""

    def __init__(self, first: Guide, second: Guide) -> None:
        """Starts where both start."""
        self._first, self._second = first, second

    @property
    def binds(self) -> bool:
        """Whether either depends on the newest token."""
        return self._first.binds or self._second.binds

    def mask(self) -> np.ndarray | None:
        """Returns what both allow."""
        first, second = self._first.mask(), self._second.mask()
        if first is None or second is None:
            return second if first is None else first
        allowed: np.ndarray = first & second
        return allowed if allowed.any() else first

    def advance(self, token: int) -> None:
        """Takes the answer's next token, in both."""
        self._first.advance(token)
        self._second.advance(token)
