"""What a request may say: OpenAI's parameters, vLLM's that work, and no others."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from r1jax.engine.types import MAX_LOGPROBS, MAX_SEED, SamplingParams
from r1jax.serve.errors import bad_request, from_validation, unknown_parameter

MAX_STOPS = 16
MAX_N = 128

# Sent by common clients; with or without them the answer is the same.
HARMLESS = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}


@dataclass(frozen=True)
class Refusal:
    """A known parameter that does not work here, save with values that ask nothing."""

    why: str = "this server cannot do it, and ignoring it would change the answer"
    neutral: tuple[Any, ...] = ()


_TOOLS = "tools are offered to chats only, in 'tools'"
_CONSTRAINED = "chats are held to a form, by 'response_format' or 'structured_outputs'"
REFUSED = {
    "add_generation_prompt": Refusal(neutral=(True,)),
    "allowed_token_ids": Refusal(neutral=([],)),
    "audio": Refusal("the model writes text only"),
    "bad_words": Refusal(neutral=([],)),
    "chat_template": Refusal("a template sent by a client would run on the server"),
    "continue_final_message": Refusal(neutral=(False,)),
    "function_call": Refusal(_TOOLS, ("none", "auto")),
    "functions": Refusal(_TOOLS, ([],)),
    "guided_choice": Refusal(_CONSTRAINED),
    "guided_grammar": Refusal(_CONSTRAINED),
    "guided_json": Refusal(_CONSTRAINED),
    "guided_regex": Refusal(_CONSTRAINED),
    "include_reasoning": Refusal(neutral=(True,)),
    "length_penalty": Refusal("there is no beam search", (1,)),
    "logit_bias": Refusal(neutral=({},)),
    "min_tokens": Refusal(neutral=(0,)),
    "modalities": Refusal("the model writes text only", (["text"],)),
    "prediction": Refusal(),
    "priority": Refusal("requests are served in their order", (0,)),
    "prompt_logprobs": Refusal(),
    "reasoning_effort": Refusal("R1 has no degrees of effort; see 'thinking'"),
    "response_format": Refusal(_CONSTRAINED, ({"type": "text"},)),
    "return_token_ids": Refusal(neutral=(False,)),
    "return_tokens_as_token_ids": Refusal(neutral=(False,)),
    "separate_reasoning": Refusal(neutral=(True,)),
    "skip_special_tokens": Refusal(neutral=(True,)),
    "spaces_between_special_tokens": Refusal(neutral=(True,)),
    "stream_reasoning": Refusal(neutral=(True,)),
    "structured_outputs": Refusal(_CONSTRAINED),
    "suffix": Refusal("R1 was not trained to fill in the middle", ("",)),
    "thinking_token_budget": Refusal(),
    "tool_choice": Refusal(_TOOLS, ("none", "auto")),
    "tools": Refusal(_TOOLS, ([],)),
    "truncate_prompt_tokens": Refusal(),
    "use_beam_search": Refusal("there is no beam search", (False,)),
    "verbosity": Refusal(neutral=("medium",)),
    "web_search_options": Refusal("the server reaches no network"),
}


def _stop_list(value: object) -> object:
    """Takes one stop string for a list of one."""
    return [value] if isinstance(value, str) else value


_StopString = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """Whether token counts come with the stream: at its end, or with every chunk."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingRequest(BaseModel):
    """The parameters that chat and text completions share."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED - MAX_N)
    n: int = Field(1, ge=1, le=MAX_N)
    stop: Annotated[
        list[_StopString], BeforeValidator(_stop_list), Field(max_length=MAX_STOPS)
    ] = []
    include_stop_str_in_output: bool = False
    stop_token_ids: list[int] = Field([], max_length=1024)
    ignore_eos: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    sampled: ClassVar = (
        "temperature",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "ignore_eos",
    )

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Validates a request's body; a null stands for a parameter left out.

        Raises:
          ApiError: 400, naming the parameter at fault.
        """
        for name, value in body.items():
            _refuse_unsupported(name, value, cls.model_fields)
        known = {
            name: value
            for name, value in body.items()
            if value is not None and name in cls.model_fields
        }
        try:
            request = cls.model_validate(known)
        except ValidationError as error:
            raise from_validation(error, cls.model_fields) from None
        if request.stream_options is not None and not request.stream:
            raise bad_request(
                "'stream_options' without 'stream'",
                "an answer sent in one piece always carries its usage",
                "leave 'stream_options' out, or set 'stream' to true",
                "stream_options",
            )
        return request

    def sampling(
        self, default: SamplingParams, limit: int, logprobs: int | None
    ) -> list[SamplingParams]:
        """Gives the sampling parameters of each of the `n` choices.

        Args:
          default: Holds where the request says nothing.
          limit: The longest context in tokens; a larger max_tokens means this.
          logprobs: Number of alternatives to report, None for no log-probabilities.

        Raises:
          RequestError: The values are out of range.
        """
        given = {name: getattr(self, name) for name in self.sampled}
        given = {name: value for name, value in given.items() if value is not None}
        if self.top_k is not None:
            given["top_k"] = min(max(self.top_k, 0), 2**31 - 1)
        if self.max_tokens is not None:
            given["max_tokens"] = min(self.max_tokens, limit)
        given["stop_token_ids"] = (*default.stop_token_ids, *self.stop_token_ids)
        params = replace(default, **given, logprobs=logprobs)
        if params.seed is None:
            return [params] * self.n
        return [replace(params, seed=params.seed + i) for i in range(self.n)]


def _refuse_unsupported(name: str, value: object, fields: dict[str, Any]) -> None:
    """Raises for a parameter that is unknown, or known and not served."""
    if name in fields or name in HARMLESS:
        return
    refusal = REFUSED.get(name)
    if refusal is None:
        raise unknown_parameter(name, fields)
    if value is not None and value not in refusal.neutral:
        raise bad_request(
            f"'{name}' is not supported",
            refusal.why,
            f"leave '{name}' out",
            name,
            "unsupported_parameter",
        )


class CompletionRequest(SamplingRequest):
    """The body of a text completion. 16 tokens are OpenAI's default length."""

    prompt: Any
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = None
    add_special_tokens: bool = True
