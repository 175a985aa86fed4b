"""A sequence as it is served, and a step's plan: which of its tokens are fed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from r1jax.cache import Geometry
from r1jax.engine.guides import Rules
from r1jax.engine.types import PromptLogprob, SamplingParams


@dataclass(eq=False)
class Sequence:
    """One stream of tokens being served.

    Attributes:
      id: The request's.
      tokens: Prompt and answer, as far as the host knows them.
      prompt_length: How many of them are the prompt.
      sampling: How to choose the next one.
      limit: Most tokens the answer may have.
      slot: The row of device state it holds while running.
      shard: The data shard that it runs on.
      home: The device that holds its first pages, of those that share the shard.
      pages: Its pages, in order.
      computed: Tokens whose cache entries are written or being written.
      from_host: Tokens it was admitted with; later ones are read on the device.
      pending: 1 while its newest token is known to the device only.
      rules: What may be said next; None where everything may.
      stuck: Why nothing may, which ends the answer; None while something may.
      judged: The prompt's log-probabilities so far, where they are asked for.
      packed: What packing keeps of it from step to step.
      drafts: Guesses of what follows its newest token, for its next decode.
      finished: True once its last event was sent.
      names: Of its full pages, as far as they were needed.
      named: How many of its pages were made findable, or were found.
      found: Tokens that were in the cache when it was last admitted.
      cached: The same of its first admission; None before that.
      awaits: Who was filling its next page when it was last looked for.
      arrived: When it came, by `time.monotonic`.
      queued: Seconds until it was first admitted; None before.
    """

    id: int
    tokens: list[int]
    prompt_length: int
    sampling: SamplingParams
    limit: int
    slot: int | None = None
    shard: int = 0
    home: int = 0
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    from_host: int = 0
    pending: int = 0
    rules: Rules | None = None
    stuck: str | None = None
    judged: list[PromptLogprob] = field(default_factory=list)
    packed: Any = None
    drafts: list[int] = field(default_factory=list)
    finished: bool = False
    names: list[bytes] = field(default_factory=list)
    named: int = 0
    found: int = 0
    cached: int | None = None
    awaits: "Sequence | None" = field(default=None, repr=False)
    arrived: float = field(default_factory=time.monotonic)
    queued: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Orders sequences, the best first."""
        return self.sampling.priority, self.id

    @property
    def answered(self) -> int:
        """Answer tokens so far, the pending one included."""
        return len(self.tokens) + self.pending - self.prompt_length

    @property
    def scores(self) -> bool:
        """Whether its prompt is to be judged when fed: until the answer has begun."""
        return self.sampling.prompt_logprobs is not None and not self.answered

    @property
    def waits(self) -> bool:
        """Whether its next token needs one that is not read yet."""
        return bool(self.pending) and self.rules is not None and self.rules.binds


@dataclass(frozen=True)
class Row:
    """One sequence's share of a step: `count` tokens from position `start` on.

    `samples` is True where the step reaches the sequence's end, so that a next token
    comes out; `decode` where the token fed is the last one sampled. Behind it may come
    `drafts`, guesses to be verified, which `count` includes.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    decode: bool
    drafts: tuple[int, ...] = ()


class Share(NamedTuple):
    """One data shard's rows of a step."""

    decodes: list[Row]
    chunks: list[Row]


@dataclass(frozen=True)
class Plan:
    """One step: its rows in the order of `geometry`, without the padding ones.

    `scores` is True where it judges the chunks, since some prompt is to be judged.
    """

    shares: list[Share]
    geometry: Geometry
    scores: bool = False

    def placed(self) -> Iterator[tuple[int, int, Row]]:
        """Yields each row with its number and its first token's place in the step."""
        g = self.geometry
        for shard, share in enumerate(self.shares):
            first_row, first_token = shard * g.rows, shard * g.tokens
            for i, row in enumerate(share.decodes):
                yield first_row + i, first_token + i * g.decode_tokens, row
            for i, row in enumerate(share.chunks):
                token = first_token + g.first_chunk + i * g.chunk_tokens
                yield first_row + g.decodes + i, token, row

    def sampled(self) -> Iterator[tuple[int, int, Row]]:
        """Yields rows whose next token comes out, with their number and its place.

        The place is among the tokens asked (`Geometry.asked`) of all shards.
        """
        g = self.geometry
        for number, _, row in self.placed():
            if row.samples:
                shard, within = divmod(number, g.rows)
                yield number, shard * g.asked + g.first_asked(within), row
