"""What a request may say: OpenAI's parameters, vLLM's that work, and no others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from r1jax.engine.types import MAX_LOGPROBS, MAX_SEED, SamplingParams
from r1jax.serve.errors import bad_request, from_validation, unknown_parameter
from r1jax.text.bad_words import BadWords
from r1jax.text.tokenizer import Tokenizer

MAX_STOPS = 16
MAX_N = 128
MAX_BIASED = 1024
MAX_BAD_WORDS = 256
MAX_PRIORITY = 2**31 - 1

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
    "audio": Refusal("the model writes text only"),
    "cache_salt": Refusal("whoever may ask shares one cache"),
    "chat_template": Refusal("a template sent by a client would run on the server"),
    "container": Refusal("the server runs no tools"),
    "context_management": Refusal("conversations are not shortened here"),
    "continue_final_message": Refusal(neutral=(False,)),
    "conversation": Refusal("conversations are kept by 'previous_response_id' only"),
    "function_call": Refusal(_TOOLS, ("none", "auto")),
    "functions": Refusal(_TOOLS, ([],)),
    "guided_choice": Refusal(_CONSTRAINED),
    "guided_grammar": Refusal(_CONSTRAINED),
    "guided_json": Refusal(_CONSTRAINED),
    "guided_regex": Refusal(_CONSTRAINED),
    "include_reasoning": Refusal(neutral=(True,)),
    "length_penalty": Refusal("there is no beam search", (1,)),
    "max_tool_calls": Refusal("the server runs no tools"),
    "mcp_servers": Refusal("the server reaches no network"),
    "modalities": Refusal("the model writes text only", (["text"],)),
    "prediction": Refusal(),
    "reasoning_effort": Refusal("R1 has no degrees of effort; see 'thinking'"),
    "response_format": Refusal(_CONSTRAINED, ({"type": "text"},)),
    "separate_reasoning": Refusal(neutral=(True,)),
    "spaces_between_special_tokens": Refusal(neutral=(True,)),
    "stream_reasoning": Refusal(neutral=(True,)),
    "structured_outputs": Refusal(_CONSTRAINED),
    "suffix": Refusal("R1 was not trained to fill in the middle", ("",)),
    "thinking_token_budget": Refusal(),
    "tool_choice": Refusal(_TOOLS, ("none", "auto")),
    "tools": Refusal(_TOOLS, ([],)),
    "use_beam_search": Refusal("there is no beam search", (False,)),
    "verbosity": Refusal(neutral=("medium",)),
    "web_search_options": Refusal("the server reaches no network"),
}


def _stop_list(value: object) -> object:
    """Takes one stop string for a list of one."""
    return [value] if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1)]
_TokenId = Annotated[int, Field(ge=0)]
_IdString = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")]


class StreamOptions(BaseModel):
    """Whether token counts come with the stream: at its end, or with every chunk."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Body(BaseModel):
    """A request's body: what is not known is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None

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
        request.check()
        return request

    def check(self) -> None:
        """Refuses parameters that do not go together.

        Raises:
          ApiError: 400, naming one of them.
        """


class Sampled(Body):
    """How tokens are chosen: the parameters that all endpoints share."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[_IdString, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, max_length=MAX_BIASED
    )
    allowed_token_ids: list[_TokenId] = []
    bad_words: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        [], max_length=MAX_BAD_WORDS
    )
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED - MAX_N)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: list[int] = Field([], max_length=1024)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    priority: int | None = Field(None, ge=-MAX_PRIORITY - 1, le=MAX_PRIORITY)

    sampled: ClassVar = (
        "temperature",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "min_tokens",
        "ignore_eos",
        "priority",
    )

    def check_ids(self, vocab_size: int) -> None:
        """Refuses token ids that the model does not have.

        Raises:
          ApiError: 400, naming the parameter and the id.
        """
        for name, ids in (
            ("logit_bias", map(int, self.logit_bias)),
            ("allowed_token_ids", self.allowed_token_ids),
        ):
            for token in ids:
                if token >= vocab_size:
                    raise bad_request(
                        f"'{name}' has the token id {token}",
                        f"the model's ids go from 0 to {vocab_size - 1}",
                        "use ids of this model's tokenizer; see /tokenize",
                        name,
                        "invalid_value",
                    )

    def forbidden(self, tokenizer: Tokenizer, vocab_size: int) -> BadWords | None:
        """Gives the rule by which no bad word comes, if there are any."""
        words = self.bad_words
        return BadWords(tokenizer, words, vocab_size) if words else None


class SamplingRequest(Sampled):
    """The parameters that chat and text completions share."""

    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MAX_N)
    stop: Annotated[
        list[_Text],
        BeforeValidator(_stop_list, json_schema_input_type=_Text | list[_Text]),
        Field(max_length=MAX_STOPS),
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    request_id: str | None = Field(None, pattern=r"^[!-~]{1,128}$")
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    truncation_side: Literal["left", "right"] = "left"

    def check(self) -> None:
        """Refuses parameters that do not go together.

        Raises:
          ApiError: 400, naming one of them.
        """
        if self.stream_options is not None and not self.stream:
            raise bad_request(
                "'stream_options' without 'stream'",
                "an answer sent in one piece always carries its usage",
                "leave 'stream_options' out, or set 'stream' to true",
                "stream_options",
            )
        if self.truncate_prompt_tokens == 0:
            raise bad_request(
                "'truncate_prompt_tokens' is 0",
                "nothing of the prompt would be left",
                "send at least 1, or -1 for as many as there is room for",
                "truncate_prompt_tokens",
                "invalid_value",
            )
        longest = self.max_tokens
        if longest is not None and (self.min_tokens or 0) > longest:
            raise bad_request(
                f"'min_tokens' is {self.min_tokens} where 'max_tokens' is {longest}",
                "no answer can be that long",
                "send a smaller 'min_tokens'",
                "min_tokens",
                "invalid_value",
            )

    def truncated(self, prompt: Sequence[int], limit: int) -> list[int]:
        """Cuts a prompt as `truncate_prompt_tokens` says.

        Args:
          prompt: Token ids.
          limit: The longest context in tokens; -1 keeps what leaves room in it for the
            answer, of at least one token.
        """
        keep = self.truncate_prompt_tokens
        if keep is None:
            return list(prompt)
        if keep < 0:
            keep = max(limit - max(self.max_tokens or 1, 1), 1)
        left = self.truncation_side == "left"
        return list(prompt[-keep:] if left else prompt[:keep])

    @property
    def prompt_alternatives(self) -> int | None:
        """How many likeliest tokens are reported beside each of the prompt's."""
        return self.prompt_logprobs

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
        if self.min_tokens is not None:
            given["min_tokens"] = min(self.min_tokens, limit)
        params = replace(
            default,
            **given,
            stop_token_ids=(*default.stop_token_ids, *self.stop_token_ids),
            logit_bias=tuple((int(i), bias) for i, bias in self.logit_bias.items()),
            allowed_token_ids=tuple(self.allowed_token_ids) or None,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_alternatives,
        )
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
