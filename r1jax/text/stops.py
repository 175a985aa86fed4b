"""Stop strings: ends a text where one first appears, and never shows part of one.

The result does not depend on how the text was cut into pieces: it always equals the
whole text cut before the first place at which any stop string begins.
"""

from collections.abc import Sequence

from r1jax.errors import RequestError


class StopStrings:
    """Passes text on until a stop string appears; holds back what may become one.

    Attributes:
        matched: the stop string that ended the text, or None.
    """

    def __init__(self, stops: str | Sequence[str]) -> None:
        """Takes one stop string or several; with none, all text passes at once.

        Raises:
            RequestError: a stop string is empty.
        """
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        if "" in self._stops:
            raise RequestError(
                "a stop string is empty",
                why="an empty string appears before the first character of any text",
                fix="leave it out, or give the text that should end the answer",
            )
        self._reach = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Returns what may be shown now, and whether a stop string was hit.

        After a hit nothing more is shown.
        """
        if self.matched is not None:
            return "", True
        self._held += text
        hit = self._first_hit()
        open_at = self._first_open(len(self._held) if hit is None else hit[0])
        if open_at is None and hit is not None:
            return self._end(hit), True
        if open_at is None:
            open_at = len(self._held)
        emit, self._held = self._held[:open_at], self._held[open_at:]
        return emit, False

    def flush(self) -> str:
        """Returns what was still held, once the text has ended.

        Sets `matched` if a stop string was complete but waited for a longer one that
        began before it ("bc" inside the beginning of "abcd").
        """
        if self.matched is not None:
            return ""
        hit = self._first_hit()
        if hit is not None:
            return self._end(hit)
        emit, self._held = self._held, ""
        return emit

    def _first_hit(self) -> tuple[int, str] | None:
        """Finds the earliest complete stop string; the shortest of those."""
        hits = ((self._held.find(stop), len(stop), stop) for stop in self._stops)
        first = min((hit for hit in hits if hit[0] >= 0), default=None)
        return None if first is None else (first[0], first[2])

    def _first_open(self, before: int) -> int | None:
        """Finds the first place under `before` that could still become a stop."""
        end = len(self._held)
        for at in range(max(0, end - self._reach + 1), before):
            tail = self._held[at:]
            if any(stop.startswith(tail) for stop in self._stops):
                return at
        return None

    def _end(self, hit: tuple[int, str]) -> str:
        at, self.matched = hit
        emit, self._held = self._held[:at], ""
        return emit
