"""Sets of tokens as the bits that the engine reads.

A mask is uint32 [ceil(V / 32)], V the size of the model's vocabulary, which is often
padded beyond the tokenizer's: token i may come if bit i % 32 of word i // 32 is set.
"""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from r1jax.text.reasoning import CLOSE
from r1jax.text.tokenizer import Tokenizer

_CLOSE = CLOSE.encode()


class TokenMasks:
    """Makes the masks of one model.

    Attributes:
        tokenizer: gives tokens their bytes.
        size: V.
        ends: the tokens that end an answer.
        ending: the mask that allows only these.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Iterable[int]) -> None:
        """Takes the model's vocabulary size and its end tokens."""
        self.tokenizer, self.size = tokenizer, size
        self.ends = frozenset(end for end in ends if end < size)
        self.ending = self.of(self.ends)
        self._thinking: dict[bytes, np.ndarray] = {}

    def of(self, ids: Iterable[int]) -> np.ndarray:
        """Returns the mask that allows these tokens only."""
        bits = np.zeros(-(-self.size // 32) * 32, bool)
        bits[list(ids)] = True
        return packed(bits)

    def line_ends(self, most: int) -> np.ndarray:
        """Returns the mask of the tokens that are up to `most` line ends."""
        return self._line_ends[most]

    def thinking(self, begun: bytes) -> np.ndarray:
        """Returns the mask of what may follow in thoughts before a constrained answer.

        That is every token but those that end the answer, and those that write on
        after `</think>` themselves, of which `begun` is written already.
        """
        known = self._thinking.get(begun)
        if known is None:
            bits = np.zeros(-(-self.size // 32) * 32, bool)
            bits[: min(self.size, self.tokenizer.vocab_size)] = True
            bits[list(self.ends)] = False
            bits[[i for i, data in self._closers if _writes_on(begun + data)]] = False
            known = self._thinking[begun] = packed(bits)
        return known

    @cached_property
    def _closers(self) -> list[tuple[int, bytes]]:
        """The tokens that could end `</think>` and go on."""
        ids = range(min(self.size, self.tokenizer.vocab_size))
        every = ((index, self.tokenizer.token_bytes(index)) for index in ids)
        return [(index, data) for index, data in every if b">" in data]

    @cached_property
    def _line_ends(self) -> list[np.ndarray]:
        ids: list[int] = []
        masks = [self.of(ids)]
        for text in ("\n", "\n\n"):
            found = self.tokenizer.encode(text)
            ids += found if len(found) == 1 else []
            masks.append(self.of(ids))
        return masks


def _writes_on(data: bytes) -> bool:
    _, closed, after = data.partition(_CLOSE)
    return bool(closed and after.strip(b"\n"))


def packed(bits: np.ndarray) -> np.ndarray:
    """Returns the mask of one bool for each token, a multiple of 32 of them."""
    mask = np.packbits(bits, bitorder="little").view(np.uint32)
    mask.flags.writeable = False
    return mask
