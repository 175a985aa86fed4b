"""The body of a text completion."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from r1jax.engine.types import MAX_LOGPROBS
from r1jax.serve.errors import bad_request
from r1jax.serve.protocol import SamplingRequest

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPT = {
    "anyOf": [
        {"type": "string"},
        _IDS,
        {
            "type": "array",
            "items": {"anyOf": [{"type": "string"}, _IDS]},
            "minItems": 1,
        },
    ]
}


class CompletionRequest(SamplingRequest):
    """The body of a text completion. 16 tokens are OpenAI's default length."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPT)]
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = None
    add_special_tokens: bool = True

    def check(self) -> None:
        """Refuses parameters that do not go together.

        Raises:
          ApiError: 400, naming one of them.
        """
        super().check()
        if self.best_of is not None and self.best_of != self.n:
            raise bad_request(
                f"'best_of' is {self.best_of} where 'n' is {self.n}",
                "every choice that is generated is returned",
                "leave 'best_of' out and choose among 'n'",
                "best_of",
                "unsupported_parameter",
            )
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise bad_request(
                "'max_tokens' is 0",
                "nothing would be answered, and nothing is asked of the prompt",
                "send at least 1, or ask for 'echo' or 'prompt_logprobs'",
                "max_tokens",
                "invalid_value",
            )

    @property
    def prompt_alternatives(self) -> int | None:
        """How many likeliest tokens are reported beside each of the prompt's."""
        echoed = (self.logprobs or 0) if self.echo and self.judges else None
        asked = [each for each in (self.prompt_logprobs, echoed) if each is not None]
        return max(asked, default=None)

    @property
    def judges(self) -> bool:
        """Whether an echo needs the prompt's log-probabilities, or no answer at all."""
        return self.logprobs is not None or self.max_tokens == 0
