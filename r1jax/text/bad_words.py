"""Strings that an answer may not hold, however they are spelt in tokens.

A word has many spellings: alone, after a space, cut in two, as the end of one token and
the beginning of the next. So the text is followed, not the tokens: whatever the answer
ends in that begins a forbidden string, no token may come that completes it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from r1jax.text.masks import packed
from r1jax.text.tokenizer import Tokenizer

_APART = b"\xff"  # no text holds this byte


class TokenIndex:
    """Finds the tokens whose bytes begin with some, or hold some."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Reads the whole vocabulary; control tokens and marks are not its text."""
        special = tokenizer.named_ids
        count = tokenizer.vocab_size
        self.bytes = [
            b"" if token in special else tokenizer.token_bytes(token)
            for token in range(count)
        ]
        self.names = {tokenizer.token_bytes(token): token for token in special}
        self._order = np.array(sorted(range(count), key=self.bytes.__getitem__))
        self._sorted = [self.bytes[token] for token in self._order]
        self._row = _APART.join(self.bytes) + _APART
        self._ends = np.cumsum([len(each) + 1 for each in self.bytes])

    def starting(self, data: bytes) -> np.ndarray:
        """Returns the ids of the tokens that begin with UTF-8 `data`."""
        after = data[:-1] + bytes([data[-1] + 1])
        low, high = bisect_left(self._sorted, data), bisect_left(self._sorted, after)
        return self._order[low:high]

    def holding(self, data: bytes) -> list[int]:
        """Returns the ids of the tokens that hold UTF-8 `data`."""
        found, at = [], self._row.find(data)
        while at >= 0:
            token = int(np.searchsorted(self._ends, at, side="right"))
            found.append(token)
            at = self._row.find(data, int(self._ends[token]))
        return found


@lru_cache(maxsize=2)
def token_index(tokenizer: Tokenizer) -> TokenIndex:
    """Makes the index of a tokenizer, once."""
    return TokenIndex(tokenizer)


class BadWords:
    """Forbids strings; each answer is followed by a `BadWordsGuide` of its own.

    Masks are those of `r1jax.text.masks`.

    Attributes:
      index: Of the tokenizer.
      always: The mask of what never completes a word by itself.
      after: Token ids that are forbidden where the text ends in these bytes.
      longest: The most bytes that matter of a text's end.
    """

    def __init__(
        self, tokenizer: Tokenizer, words: Sequence[str], vocab_size: int
    ) -> None:
        """Finds which tokens are forbidden always, and which after what.

        Args:
          tokenizer: The model's.
          words: The strings, none empty. "think" does not forbid `</think>`, nor "end"
            a control token that ends an answer; their own names do.
          vocab_size: Number of ids the model has, which may be more than its tokens.
        """
        self.index = token_index(tokenizer)
        always: list[int] = []
        after: dict[bytes, list[np.ndarray]] = {}
        for word in {word.encode() for word in words}:
            always += self.index.holding(word)
            if word in self.index.names:
                always.append(self.index.names[word])
            for cut in range(1, len(word)):
                ids = self.index.starting(word[cut:])
                if len(ids):
                    after.setdefault(word[:cut], []).append(ids)
        self.after = {begun: np.concatenate(ids) for begun, ids in after.items()}
        self.longest = max(map(len, self.after), default=0)
        allowed = np.zeros(-(-vocab_size // 32) * 32, bool)
        allowed[:vocab_size] = True
        allowed[always] = False
        self.always = packed(allowed)

    def mask(self, tail: bytes) -> np.ndarray:
        """Returns the mask of what may follow a text that ends in `tail`."""
        mask = self.always
        for length in range(1, len(tail) + 1):
            ids = self.after.get(tail[-length:])
            if ids is not None:
                mask = mask.copy() if mask is self.always else mask
                bits = np.uint32(1) << (ids % 32).astype(np.uint32)
                np.bitwise_and.at(mask, ids // 32, ~bits)
        return mask

    def guide(self) -> "BadWordsGuide":
        """Begins to follow an answer."""
        return BadWordsGuide(self)


class BadWordsGuide:
    """Follows one answer; see `r1jax.engine.guides.Guide`."""

    def __init__(self, words: BadWords) -> None:
        """Starts at the answer's beginning; the prompt's text does not count."""
        self._words = words
        self._tail = b""

    @property
    def binds(self) -> bool:
        """Whether the next mask depends on the newest token, as it does here."""
        return bool(self._words.after)

    def mask(self) -> np.ndarray | None:
        """Returns the mask of the next token."""
        return self._words.mask(self._tail)

    def advance(self, token: int) -> None:
        """Takes the answer's next token."""
        words = self._words
        if words.longest and token < len(words.index.bytes):
            tail = self._tail + words.index.bytes[token]
            self._tail = tail[-words.longest :]
