"""What may be said next: rules that follow an answer token by token.

A mask is uint32 [ceil(V / 32)]: token i may come if bit i % 32 of word i // 32 is set.
Whoever gets a mask reads it only: a guide may hand out the same array again.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from r1jax.config import ModelConfig
from r1jax.engine.types import SamplingParams

_ALL = np.uint32(2**32 - 1)


class Guide(Protocol):
    """Follows one answer, and says which tokens may come next.

    The engine calls it on its own thread, for one sequence, in order.
    """

    @property
    def binds(self) -> bool:
        """Whether the next token's mask depends on all tokens before it.

        While it does, the sequence takes no part in a step before its newest token has
        been read.
        """

    def mask(self) -> np.ndarray | None:
        """Returns the mask of the next token; None allows every one."""

    def advance(self, token: int) -> None:
        """Takes the answer's next token, which the mask allowed; must not raise."""


def words_of(vocabulary: int) -> int:
    """Returns the length of a mask over so many tokens."""
    return -(-vocabulary // 32)


def mask_of(tokens: Iterable[int], vocabulary: int) -> np.ndarray:
    """Returns the mask that allows just these tokens."""
    ids = np.fromiter(tokens, np.int64)
    mask = np.zeros(words_of(vocabulary), np.uint32)
    np.bitwise_or.at(mask, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return mask


class AllowedTokens:
    """Allows the same few tokens throughout."""

    binds = False

    def __init__(self, tokens: Iterable[int], vocabulary: int) -> None:
        """Takes the tokens, and how many the model knows."""
        self._mask = mask_of(tokens, vocabulary)

    def mask(self) -> np.ndarray:
        """Returns the one mask."""
        return self._mask

    def advance(self, token: int) -> None:
        """Has nothing to remember."""


class BadWords:
    """Forbids the last token of each word while the answer ends in the rest of it."""

    def __init__(self, words: Sequence[tuple[int, ...]], vocabulary: int) -> None:
        """Takes the words as tokens, and how many tokens the model knows."""
        self._longer = [word for word in words if len(word) > 1]
        self._mask = ~mask_of((w[0] for w in words if len(w) == 1), vocabulary)
        self._recent: list[int] = []
        self._reach = max(map(len, words), default=1) - 1

    @property
    def binds(self) -> bool:
        """Whether some word is longer than one token."""
        return bool(self._longer)

    def mask(self) -> np.ndarray:
        """Returns the mask of the next token."""
        ends = [word[-1] for word in self._longer if self._begun(word)]
        if not ends:
            return self._mask
        mask = self._mask.copy()
        for token in ends:
            mask[token // 32] &= ~(np.uint32(1) << np.uint32(token % 32))
        return mask

    def advance(self, token: int) -> None:
        """Remembers as many tokens as the longest word has before its last."""
        self._recent = [*self._recent, token][-self._reach :] if self._reach else []

    def _begun(self, word: tuple[int, ...]) -> bool:
        return tuple(self._recent[1 - len(word) :]) == word[:-1]


class Several:
    """Allows what all of its guides allow."""

    def __init__(self, guides: Sequence[Guide]) -> None:
        """Takes the guides, at least one."""
        self._guides = guides

    @property
    def binds(self) -> bool:
        """Whether one of them does."""
        return any(guide.binds for guide in self._guides)

    def mask(self) -> np.ndarray | None:
        """Returns the bits that all masks have."""
        masks = [mask for guide in self._guides if (mask := guide.mask()) is not None]
        if len(masks) < 2:
            return masks[0] if masks else None
        return np.bitwise_and.reduce(masks)

    def advance(self, token: int) -> None:
        """Lets each of them follow."""
        for guide in self._guides:
            guide.advance(token)


class Rules:
    """All that decides one answer's next tokens: its guide, and its least length.

    The least length needs only the number of tokens before, so it binds nothing. Where
    a guide leaves only end tokens, as a grammar that has ended does, it gives way.

    Attributes:
      failure: What the guide raised, which ends the answer; None while all is well.
    """

    def __init__(
        self,
        vocabulary: int,
        guide: Guide | None = None,
        least: int = 0,
        ends: Iterable[int] = (),
    ) -> None:
        """Puts the rules of one answer together.

        Args:
          vocabulary: Tokens that the model knows.
          guide: Follows the answer.
          least: Tokens that the answer must have before it ends.
          ends: The tokens that would end it.
        """
        self._guide, self._least = guide, least
        self._words, spare = words_of(vocabulary), -vocabulary % 32
        self._tail = _ALL >> np.uint32(spare)  # the last word has bits of no token
        self._goes_on = ~mask_of(ends, vocabulary)
        self.failure: str | None = None

    @property
    def binds(self) -> bool:
        """Whether the next mask needs all tokens before it; see `Guide.binds`."""
        return self._guide is not None and self._guide.binds

    @property
    def guided(self) -> bool:
        """Whether there is a guide."""
        return self._guide is not None

    def mask(self, answered: int) -> np.ndarray | None:
        """Returns the mask of the token after so many; None allows every one.

        A guide that fails allows nothing, and `failure` says why.
        """
        if self.failure:
            return np.zeros(self._words, np.uint32)
        try:
            mask = None if self._guide is None else self._guide.mask()
            if mask is not None and mask.shape != (self._words,):
                raise ValueError(f"a mask of {mask.shape} words, not ({self._words},)")
        except Exception as error:  # one request's guide must not end the others
            return self._fail(error)
        if answered >= self._least:
            return mask
        if mask is None:
            return self._goes_on
        longer = mask & self._goes_on
        return longer if self.allows(longer) else mask

    def advance(self, token: int) -> None:
        """Lets the guide follow the answer."""
        if self._guide is not None and not self.failure:
            try:
                self._guide.advance(token)
            except Exception as error:
                self._fail(error)

    def allows(self, mask: np.ndarray) -> bool:
        """Whether a mask leaves any token."""
        return bool(mask[:-1].any() or mask[-1] & self._tail)

    def _fail(self, error: Exception) -> np.ndarray:
        self.failure = f"the answer's guide failed: {error}"
        return np.zeros(self._words, np.uint32)


def rules_for(
    sampling: SamplingParams, config: ModelConfig, guide: Guide | None = None
) -> Rules | None:
    """Makes the rules of one answer; None where it has none but its logit_bias."""
    vocabulary = config.vocab_size
    guides: list[Guide] = [] if guide is None else [guide]
    if sampling.allowed_token_ids is not None:
        guides.append(AllowedTokens(sampling.allowed_token_ids, vocabulary))
    if sampling.bad_words:
        guides.append(BadWords(sampling.bad_words, vocabulary))
    ends = {*config.eos_ids, *sampling.stop_token_ids}
    least = sampling.min_tokens if ends else 0
    if not guides and not least:
        return None
    together = Several(guides) if len(guides) > 1 else next(iter(guides), None)
    return Rules(vocabulary, together, least, ends)
