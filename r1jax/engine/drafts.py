"""Tokens guessed ahead, and how many of them were right.

The model verifies guesses by being fed them: behind a sequence's newest token x come
guesses d1 .. dk, and in one step a token is sampled after each of them,

    fed      x   d1  d2  d3
    sampled  s0  s1  s2  s3      s0 = d1, s1 = d2, s2 != d3:  s0 s1 s2 are the answer

each with the draw of its own position, as without guesses (`sampling.draw`). s0 is the
next token. Where it equals d1, what was fed behind x was right, and s1 is the token
after it; and so on to the first guess that was wrong. So the answer is, token for
token, the one without guesses, at any temperature. Speculative sampling (arXiv
2211.17192, 2302.01318) accepts a guess with probability p(d) if it was certain of it,
and else draws from p without d: the same distribution, reached here by the same draws.

What was fed behind the last accepted token leaves wrong entries in the cache, beyond
the sequence's length; the next tokens overwrite them before anything reads them.
"""

from collections.abc import Sequence as Tokens
from typing import Protocol

import numpy as np

from r1jax.config import ModelConfig
from r1jax.engine.plans import Sequence
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError


def accepted(drafts: Tokens[int], sampled: Tokens[int]) -> int:
    """Returns how many guesses, from the first on, are what was sampled there."""
    pairs = zip(drafts, sampled, strict=False)
    return next((i for i, (d, s) in enumerate(pairs) if d != s), len(drafts))


def may_draft(sampling: SamplingParams, answered: int) -> bool:
    """Tells whether a row's tokens may be sampled several at a time.

    Penalties look at all tokens before, and so may guides; their rows go on one by one.
    """
    return not (
        sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1.0
        or sampling.logit_bias
        or answered < sampling.min_tokens
    )


class Drafter(Protocol):
    """Guesses what comes after each sequence's newest token."""

    def guess(self, sequence: Sequence, device: np.ndarray | None) -> list[int]:
        """Returns the guesses for a sequence whose tokens are all known.

        Args:
          sequence: Whose.
          device: What the prediction layer guesses, where there is one.
        """

    def forget(self, sequence: Sequence) -> None:
        """Drops what is kept of a sequence that has ended."""


def make_drafter(options: EngineOptions) -> Drafter | None:
    """Returns what guesses as the options say; None where nothing does."""
    if options.draft is None:
        return None
    if options.draft == "mtp":
        return LayerDrafter()
    return NgramDrafter(options)


def check_drafts(config: ModelConfig, draft: str | None) -> None:
    """Refuses a way of guessing that the model has not.

    Raises:
      ConfigError: The prediction layer is to guess, and there is none.
    """
    if draft == "mtp" and not config.mtp_layers:
        raise ConfigError(
            "draft is 'mtp' for a model without a multi-token-prediction layer",
            f"{config.family} models come without one, or this checkpoint was saved "
            "without it",
            "choose 'ngram', or leave it out",
        )


def guess_for(
    drafter: Drafter, sequence: Sequence, device: np.ndarray | None
) -> list[int]:
    """Returns what is guessed for a sequence's next step, if it may bring guesses."""
    guided = sequence.rules is not None and sequence.rules.guided
    if guided or not may_draft(sequence.sampling, sequence.answered):
        return []
    return drafter.guess(sequence, device)


def more_layers(options: EngineOptions) -> int:
    """Returns how many layers the cache needs beside the model's own."""
    return int(options.draft == "mtp")


class LayerDrafter:
    """Takes what the model's own prediction layer guesses on the device."""

    def guess(self, sequence: Sequence, device: np.ndarray | None) -> list[int]:
        """Returns the device's guesses."""
        assert device is not None
        guesses: list[int] = device.tolist()
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """Does nothing: nothing is kept."""


class NgramDrafter:
    """Guesses that what followed the same tokens earlier follows again.

    Known as prompt lookup. It costs no device time, and is right where an answer
    repeats the prompt or itself.
    """

    def __init__(self, options: EngineOptions) -> None:
        """Takes the lengths of what is looked up, and how many tokens to guess."""
        self._count = options.num_draft_tokens
        self._sizes = options.prompt_lookup_min, options.prompt_lookup_max
        self._lookups: dict[int, Lookup] = {}

    def guess(self, sequence: Sequence, device: np.ndarray | None) -> list[int]:
        """Returns the tokens behind the latest place like the sequence's end."""
        if sequence.id not in self._lookups:
            self._lookups[sequence.id] = Lookup(*self._sizes)
        return self._lookups[sequence.id].continuation(sequence.tokens, self._count)

    def forget(self, sequence: Sequence) -> None:
        """Drops a sequence's places."""
        self._lookups.pop(sequence.id, None)


class Lookup:
    """Where the runs of tokens of one growing sequence were last seen.

    Each new token costs an entry for each length of run (about 200 bytes together with
    its key), whatever the sequence's length.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        """Starts without tokens.

        Args:
          shortest: Tokens of the shortest run that is looked up.
          longest: Of the longest one, which is looked up first.
        """
        self._lengths = range(longest, shortest - 1, -1)
        self._behind: dict[tuple[int, ...], int] = {}
        self._entered = 0

    def continuation(self, tokens: list[int], count: int) -> list[int]:
        """Returns the `count` tokens behind the latest run that equals the end's.

        The longest run of the end that was seen before decides. A continuation that
        reaches the end goes on with itself, as a period does. Empty if no run was seen.

        Args:
          tokens: The sequence; of what was given before only the end may be new.
          count: How many tokens.
        """
        for end in range(self._entered + 1, len(tokens)):
            for length in self._lengths:
                if length <= end:
                    self._behind[tuple(tokens[end - length : end])] = end
        self._entered = max(self._entered, len(tokens) - 1)
        for length in self._lengths:
            at = self._behind.get(tuple(tokens[-length:]))
            if at is not None and length <= len(tokens):
                behind = list(tokens[at : at + count])
                return [behind[i % len(behind)] for i in range(count)]
        return []
