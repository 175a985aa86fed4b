"""What the endpoints answer, written down for the OpenAPI document.

The answers themselves are plain dicts, written by the shapes; the tests hold them
against these models.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(strict=True, populate_by_name=True)


class ErrorObject(Reply):
    """What went wrong, why, and what to do."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class Error(Reply):
    """OpenAI's error."""

    error: ErrorObject


class MessageErrorObject(Reply):
    """What went wrong, why, and what to do."""

    type: str
    message: str


class MessageError(Reply):
    """Anthropic's error."""

    type: Literal["error"]
    error: MessageErrorObject


class CachedTokens(Reply):
    """Tokens of the prompt that were computed before."""

    cached_tokens: int


class ReasoningTokens(Reply):
    """Tokens of the thinking part."""

    reasoning_tokens: int


class TokenUsage(Reply):
    """What a completion cost; the last two fields are DeepSeek's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int


class CalledFunction(Reply):
    """Which function, with which JSON object."""

    name: str
    arguments: str


class ToolCall(Reply):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Reply):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


Finish = Literal["stop", "length", "tool_calls"]


class Choice(Reply):
    """One of the answers; ids and log-probabilities where asked for."""

    index: int
    finish_reason: Finish | None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatChoice(Choice):
    """One of a chat's answers."""

    message: ChatMessage
    logprobs: dict[str, list[dict[str, Any]]] | None


class ChatCompletion(Reply):
    """A chat's whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class ChatDelta(Reply):
    """What is added to a turn."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChunkChoice(Choice):
    """What is added to one of a chat's answers."""

    delta: ChatDelta
    logprobs: dict[str, list[dict[str, Any]]] | None = None


class ChatCompletionChunk(Reply):
    """One event of a chat's stream; "[DONE]" comes after the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | None = None


class TextLogprobs(Reply):
    """Four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Choice):
    """One of the continuations."""

    text: str
    logprobs: TextLogprobs | None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class TextCompletion(Reply):
    """A continued text; in a stream, a piece of it, "[DONE]" after the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage | None = None


class Response(Reply):
    """OpenAI's response."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    usage: dict[str, Any] | None


class ResponseEvent(Reply):
    """One event of a response's stream; its type says what else it holds."""

    type: str
    sequence_number: int


class DeletedResponse(Reply):
    """A response that is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class MessageUsage(Reply):
    """What a message cost; the input is what was not found in the cache."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageReply(Reply):
    """Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Reply):
    """One event of a message's stream; its type says what else it holds."""

    type: str


class InputTokens(Reply):
    """How many tokens a message's prompt has."""

    input_tokens: int


class Tokenized(Reply):
    """Token ids, and their text where asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Reply):
    """A text."""

    prompt: str


class ModelCard(Reply):
    """A name the model is served under, and its longest context in tokens."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(Reply):
    """The names the model is served under."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Reply):
    """Whether new requests would be served."""

    status: Literal["ok", "stopping", "failed"]


class Version(Reply):
    """The version of r1jax."""

    version: str = Field(examples=["0.1.0"])
