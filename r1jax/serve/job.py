"""A request that is understood: its choices, and the shape to answer in."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from r1jax.answer import Delta
from r1jax.serve.errors import ApiError, bad_request
from r1jax.serve.extras import Extras
from r1jax.serve.generation import Choice
from r1jax.serve.protocol import StreamOptions


class Shape(Protocol):
    """Writes answers the way one endpoint does.

    Attributes:
      steady: Whether a delta of text alone, be it thought or answer, gives one chunk
        (or none at all) once its choice has begun, in which nothing but the text
        differs from one delta to the next. Such chunks are written quickly.
    """

    steady: bool

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Writes one delta of one choice as the chunks of a stream."""

    def usage_chunk(self) -> dict[str, Any]:
        """Writes a chunk without choices, to carry the usage."""

    def whole(self, answers: Sequence[Delta]) -> dict[str, Any]:
        """Writes all finished choices as one response."""


@dataclass
class Job:
    """One understood request.

    Attributes:
      choices: What to generate: as many for each prompt, prompt by prompt.
      shape: How to answer.
      prompt_tokens: Tokens of all prompts, each counted once.
      stream: Whether to answer piece by piece.
      stream_options: Where to write usage in a stream.
      prompts: How many prompts there are.
      extras: What vLLM adds to the shapes, where asked for.
    """

    choices: list[Choice]
    shape: Shape
    prompt_tokens: int
    stream: bool
    stream_options: StreamOptions | None
    prompts: int = 1
    extras: Extras | None = None

    def usage(self) -> "Usage":
        """Starts to count."""
        return Usage(self.prompt_tokens, max(len(self.choices) // self.prompts, 1))


@dataclass
class Usage:
    """Counts the tokens of one request while they come.

    Of the `per_prompt` choices of one prompt the first says how much of it was found
    in the cache: the others share that prompt, which is counted once.
    """

    prompt_tokens: int
    per_prompt: int = 1
    cached_tokens: int = field(default=0, init=False)
    completion_tokens: int = field(default=0, init=False)
    reasoning_tokens: int = field(default=0, init=False)

    def add(self, delta: Delta, index: int = 0) -> None:
        """Counts what a delta of the choice `index` holds."""
        if index % self.per_prompt == 0:
            self.cached_tokens += delta.cached_tokens
        self.completion_tokens += len(delta.token_ids)
        self.reasoning_tokens += delta.reasoning_tokens

    def body(self) -> dict[str, Any]:
        """Writes OpenAI's usage object, and DeepSeek's two counts of the cache."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "prompt_cache_hit_tokens": self.cached_tokens,
            "prompt_cache_miss_tokens": self.prompt_tokens - self.cached_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def identity(prefix: str, model: str, request_id: str | None = None) -> dict[str, Any]:
    """Gives the fields that every piece of one answer repeats."""
    number = f"{prefix}-{request_id or secrets.token_hex(12)}"
    return {"id": number, "created": int(time.time()), "model": model}


def check_length(tokens: int, context: int, param: str) -> None:
    """Refuses a prompt that leaves no room for an answer.

    Raises:
      ApiError: 400 with the code `context_length_exceeded`.
    """
    if tokens >= context:
        raise bad_request(
            f"the prompt has {tokens} tokens",
            f"the context holds {context}, the answer included",
            f"shorten the prompt to at most {context - 1} tokens",
            param,
            "context_length_exceeded",
        )


def check_model(name: object, served: Sequence[str]) -> str:
    """Gives the name to answer under; none asked for means the first one served.

    Raises:
      ApiError: 404, the model is not served here; 400, it is no name.
    """
    if name is not None and not isinstance(name, str):
        raise bad_request("'model' is not a string", param="model")
    if name is None or name in served:
        return name or served[0]
    raise ApiError(
        404,
        f"the model '{name[:200]}' is not served here",
        f"this server has {', '.join(served)}",
        f"ask for '{served[0]}'",
        param="model",
        code="model_not_found",
    )
