"""Holds the thinking part of an answer to a budget, and what follows to a grammar.

Thoughts are free; they end where the model writes `</think>`, or where they have used
up their budget and are closed as the model would have closed them.
"""

import numpy as np

from r1jax.text.grammar import GrammarGuide
from r1jax.text.masks import TokenMasks
from r1jax.text.reasoning import CLOSE

CLOSING = "\n</think>\n\n"
_CLOSE = CLOSE.encode()
# Tokens before a budget's end from which on no step may run ahead of the guide.
_MARGIN = 16
_LONGEST = 3  # tokens that may be missing of a character
_GAP = 2  # line ends that may stand between the thoughts and a constrained answer


class ThoughtGuide:
    """Lets a model think, and leads it on (an `engine.guides.Guide`).

    Where a grammar follows, the thoughts can neither end the answer nor run into it
    within a token: the answer always begins under the grammar.
    """

    def __init__(
        self,
        masks: TokenMasks,
        budget: int | None = None,
        then: GrammarGuide | None = None,
    ) -> None:
        """Starts inside the thoughts.

        Args:
            masks: of the model's tokens.
            budget: tokens after which the thoughts are closed, once the last character
                is complete; None for no end.
            then: what the answer must fit; None leaves it free.
        """
        self._masks, self._budget, self._then = masks, budget, then
        self._thinking, self._count = True, 0
        self._tail = b""  # the thoughts' last bytes, as `</think>` may be spelled out
        self._closing = masks.tokenizer.encode(CLOSING) if budget is not None else []
        self._forced: list[int] = []
        self._gap = _GAP if then else 0
        if then:
            masks.thinking(b"")  # worked out now, not on the engine's thread

    @property
    def failure(self) -> str | None:
        """Why the grammar could not be followed, or None."""
        return self._then.failure if self._then else None

    @property
    def binds(self) -> bool:
        """Whether the next mask depends on tokens that may not have been read yet."""
        if self._then is not None or self._forced:
            return True
        if not self._thinking or self._budget is None:
            return False
        return self._count + _MARGIN >= self._budget

    def mask(self) -> np.ndarray | None:
        """Returns the mask of the next token; None while everything may come."""
        if self._is_spent():
            self._forced = list(self._closing)
        if self._forced:
            return self._masks.of(self._forced[:1])
        if self._then is None:
            return None
        if self._thinking:
            return self._masks.thinking(self._begun())
        mask = self._then.mask()
        return mask | self._masks.line_ends(self._gap) if self._gap else mask

    def advance(self, token: int) -> None:
        """Takes the next token."""
        if self._forced and token == self._forced[0]:
            self._forced.pop(0)
        data = self._masks.tokenizer.token_bytes(token)
        if self._thinking:
            self._think(data)
        elif data and len(data) <= self._gap and not data.strip(b"\n"):
            self._gap -= len(data)
        elif self._then is not None:
            self._gap = 0
            self._then.advance(token)

    def _is_spent(self) -> bool:
        if not self._thinking or self._forced or self._budget is None:
            return False
        over = self._count - self._budget
        # A character of several tokens may still be completed.
        return over >= 0 and (over >= _LONGEST or not _is_cut(self._tail))

    def _think(self, data: bytes) -> None:
        self._count += 1
        self._tail += data
        _, closed, after = self._tail.partition(_CLOSE)
        if closed:
            self._thinking = False
            self._gap = max(0, self._gap - len(after))
        self._tail = self._tail[1 - len(_CLOSE) :]

    def _begun(self) -> bytes:
        """Returns the beginning of `</think>` with which the thoughts end so far."""
        begins = (_CLOSE[:n] for n in range(len(_CLOSE) - 1, 0, -1))
        return next(filter(self._tail.endswith, begins), b"")


def _is_cut(data: bytes) -> bool:
    """Tells whether UTF-8 ends within a character."""
    for length in range(1, min(3, len(data)) + 1):
        byte = data[-length]
        if byte & 0xC0 != 0x80:
            return length < (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0) + 1
    return False
