"""What a caller asks of the engine, and what comes back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

from r1jax.config import ModelConfig
from r1jax.errors import ConfigError, RequestError

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_BIASES = 1024


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the next token; the defaults are R1's recommendations.

    Order: `logit_bias` on the logits, then penalties, then the masks (allowed tokens,
    bad words, min_tokens, a guide), then temperature, then top-k, top-p and min-p, each
    judged on the probabilities at that temperature.

    Attributes:
      temperature: 0 takes the likeliest token.
      top_p: Keeps the likeliest tokens until their probabilities sum to this.
      top_k: Keeps this many of the likeliest tokens; 0 keeps all.
      min_p: Drops tokens less likely than this share of the likeliest one.
      presence_penalty: Subtracted once from the logit of each token answered before.
      frequency_penalty: Subtracted once for each time it was answered.
      repetition_penalty: Divides positive and multiplies negative logits of tokens
        seen in the prompt or the answer (arXiv 1909.05858).
      seed: Makes the answer repeatable, alone or in any batch; None draws one.
      max_tokens: Most tokens to answer with; None goes on to the context's end.
      stop_token_ids: Tokens that end the answer, beside the model's own.
      ignore_eos: Goes on after the model's own end tokens.
      min_tokens: Neither the model's end tokens nor `stop_token_ids` are chosen
        before the answer has this many tokens, where anything else may come.
      logit_bias: (token, number added to its logit) pairs, -100 to 100, before
        penalties; 1024 at most.
      allowed_token_ids: The only tokens that may be chosen; None allows all.
      bad_words: Token sequences of which none may be completed within the answer.
      priority: Requests of a lower number are served first; the order of arrival
        decides among equals.
      logprobs: None for no log-probabilities; otherwise each token comes with its
        own and with those of this many (0 to 20) likeliest ones. They are of the
        model's distribution before bias, masks, penalties and temperature.
      prompt_logprobs: The same of the prompt's tokens, which come with the first
        event. With it max_tokens may be 0: the prompt is only judged.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    priority: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        """Refuses values outside their range.

        Raises:
          RequestError: Names the field, its value and the range.
        """
        ranges = {
            "temperature": (0.0, 2.0),
            "top_p": (0.0, 1.0),
            "top_k": (0, 2**31 - 1),
            "min_p": (0.0, 1.0),
            "presence_penalty": (-2.0, 2.0),
            "frequency_penalty": (-2.0, 2.0),
            "repetition_penalty": (0.0, 10.0),
            "seed": (-MAX_SEED - 1, MAX_SEED),
            "max_tokens": (0, 2**31 - 1),
            "min_tokens": (0, 2**31 - 1),
            "priority": (-(2**31), 2**31 - 1),
            "logprobs": (0, MAX_LOGPROBS),
            "prompt_logprobs": (0, MAX_LOGPROBS),
        }
        optional = ("seed", "max_tokens", "logprobs", "prompt_logprobs")
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            open_below = name in ("top_p", "repetition_penalty")
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or (isinstance(low, int) and not isinstance(value, int))
                or not math.isfinite(value)
                or not low <= value <= high
                or (open_below and value == low)
            ):
                raise RequestError(
                    f"{name} is {value!r}",
                    f"it must lie between {low} and {high}"
                    + (f", above {low}" if open_below else ""),
                    f"choose {name} within that range, or leave it out",
                )
        self._check_lengths()
        self._check_rules()

    def _check_lengths(self) -> None:
        if self.max_tokens is None:
            return
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise RequestError(
                "max_tokens is 0",
                "nothing is asked for: neither an answer nor a judgement of the prompt",
                "set max_tokens to at least 1, or ask for prompt_logprobs",
            )
        if self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens} and max_tokens {self.max_tokens}",
                "the answer would have to be longer than it may be",
                f"choose min_tokens of at most {self.max_tokens}",
            )

    def _check_rules(self) -> None:
        if len(self.logit_bias) > MAX_BIASES:
            raise RequestError(
                f"logit_bias has {len(self.logit_bias)} entries",
                f"there is room for {MAX_BIASES} of a request",
                "keep the most important ones, or name allowed_token_ids",
            )
        for entry in self.logit_bias:
            if not isinstance(entry, tuple) or len(entry) != 2:
                raise RequestError(
                    f"logit_bias has the entry {entry!r}",
                    "entries are (token, number) pairs",
                    "of a dict, give tuple(logit_bias.items())",
                )
            token, bias = entry
            if not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
                raise RequestError(
                    f"logit_bias of token {token} is {bias!r}",
                    "it must lie between -100 and 100",
                    "-100 all but forbids a token, 100 all but commands it",
                )
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError(
                "allowed_token_ids is empty",
                "no token could be chosen",
                "name at least one, or leave allowed_token_ids out",
            )
        if not all(self.bad_words):
            raise RequestError(
                "bad_words has a word of no tokens",
                "nothing completes it",
                "leave the empty word out",
            )


PromptLogprob = tuple[int, float | None, tuple[tuple[int, float], ...]]


@dataclass(frozen=True)
class Event:
    """One token of one request, or its end; the last event, and only it, has `finish`.

    Attributes:
      request_id: What `Engine.submit` returned.
      token: The token's id; None where the request ended without a new one.
      logprob: The token's log-probability, where asked for.
      top_logprobs: (id, log-probability) of the likeliest tokens, likeliest first.
      cached_tokens: Prompt tokens that were found in the cache; on the first event.
      queued_seconds: How long the request waited until a step fed it.
      prompt: (token, log-probability, likeliest ones) of each of the prompt's tokens
        where `prompt_logprobs` asks for them; on the first event. The first token has
        no log-probability.
      finish: "stop" (an end token, which is this event's token), "length" (max_tokens
        or the context is full), "abort" (cancelled), "error".
      error: What went wrong, with finish "error".
    """

    request_id: int
    token: int | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0
    queued_seconds: float | None = None
    prompt: tuple[PromptLogprob, ...] = ()
    finish: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class EngineOptions:
    """Sizes of the engine's compiled steps and of its cache.

    Attributes:
      max_model_len: Longest context (prompt and answer) of a request, in tokens.
      max_num_seqs: Sequences that decode at once, on each data shard.
      max_num_batched_tokens: Prompt tokens of one step (the longest chunk), on each.
      page_size: Tokens in a page.
      num_pages: Pages in each device's pool, page 0 included; None lets `load` decide.
      prefix_caching: Whether pages of tokens that begin a later request are kept.
      draft: How tokens are guessed ahead: "mtp" by the model's own prediction layer,
        "ngram" by what followed the same tokens earlier; None guesses none.
      num_draft_tokens: How many are guessed at once.
      prompt_lookup_max: With "ngram", how many of the newest tokens are looked up
        first.
      prompt_lookup_min: The fewest that are looked up.
    """

    max_model_len: int
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 512
    page_size: int = 128
    num_pages: int | None = None
    prefix_caching: bool = True
    draft: str | None = None
    num_draft_tokens: int = 1
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2

    def __post_init__(self) -> None:
        """Refuses sizes below one, and guessing in ways that do not exist.

        Raises:
          ConfigError: Names the option and its value.
        """
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ConfigError(
                    f"{name} is {value}",
                    "the engine needs at least one",
                    f"choose a larger {name}",
                )
        if self.draft not in (None, "mtp", "ngram"):
            raise ConfigError(
                f"draft is {self.draft!r}",
                "tokens are guessed by 'mtp' or by 'ngram'",
                "choose one of them, or leave it out",
            )
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ConfigError(
                f"prompt_lookup_min is {self.prompt_lookup_min}",
                f"it is more than prompt_lookup_max, {self.prompt_lookup_max}",
                "choose a smaller minimum or a larger maximum",
            )


@dataclass
class EngineStats:
    """Counters and gauges of a running engine, all in requests, pages or tokens.

    `prefix_queries` counts prompt tokens that were looked for in the cache, and
    `prefix_hits` those that were found; `drafted` counts tokens that were guessed
    ahead, in so many `drafts`, and `accepted` those that were right. `fed_tokens`
    counts the tokens of all steps, and `step_tokens` the steps by their tokens,
    rounded up to a power of two.
    """

    running: int = 0
    waiting: int = 0
    pages_used: int = 0
    pages_total: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    fed_tokens: int = 0
    step_tokens: dict[int, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)


def check_tokens(config: ModelConfig, tokens: Sequence[int]) -> None:
    """Refuses a prompt that is empty or has ids that the model does not know.

    Raises:
      RequestError: Says which id, and the range.
    """
    if not len(tokens):
        raise RequestError(
            "the prompt is empty",
            "there is nothing to continue",
            "send at least one token",
        )
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= config.vocab_size:
        raise RequestError(
            f"token id {low if low < 0 else high} in the prompt",
            f"ids go from 0 to {config.vocab_size - 1}",
            "encode the prompt with this model's tokenizer",
        )


def check_rules(config: ModelConfig, sampling: SamplingParams) -> None:
    """Refuses rules about tokens that the model does not know.

    Raises:
      RequestError: Says which id, in which field, and the range.
    """
    named = {
        "logit_bias": [token for token, _ in sampling.logit_bias],
        "allowed_token_ids": sampling.allowed_token_ids or (),
        "bad_words": [token for word in sampling.bad_words for token in word],
    }
    for name, tokens in named.items():
        for token in tokens:
            known = isinstance(token, Integral) and 0 <= token < config.vocab_size
            if not known:
                raise RequestError(
                    f"token id {token!r} in {name}",
                    f"ids go from 0 to {config.vocab_size - 1}",
                    "name tokens of this model's tokenizer",
                )
