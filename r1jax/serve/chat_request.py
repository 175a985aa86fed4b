"""The body of a chat completion, and the messages in it."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from r1jax.engine.types import MAX_LOGPROBS
from r1jax.serve.errors import bad_request, missing
from r1jax.serve.protocol import SamplingRequest
from r1jax.serve.structured import ResponseFormat, StructuredOutputs
from r1jax.serve.tool_request import NamedChoice, ToolCall, ToolSpec

# R1 has no degrees of effort: they are budgets of thinking tokens, None for no end.
EFFORTS = {
    "minimal": 512,
    "low": 2048,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}


class Thinking(BaseModel):
    """DeepSeek's switch of the thinking part."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["enabled", "disabled"]


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


def _message_fields(value: object) -> object:
    """Drops what is empty from a message, as clients send messages back they got."""
    if not isinstance(value, dict):
        return value
    calls = value.get("tool_calls")
    kept = () if calls else ("content",)
    return {k: v for k, v in value.items() if k in kept or v not in (None, [])}


def _content(value: object) -> object:
    """Joins text parts into one string, with line ends as vLLM does."""
    if not isinstance(value, list):
        return value
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" and isinstance(kind, str):
            raise bad_request(
                f"a message part has the type '{kind[:40]}'",
                "the model reads text only",
                'send parts such as {"type": "text", "text": "..."}',
                "messages",
            )
    return "\n".join(TextPart.model_validate(part).text for part in value)


class Message(BaseModel):
    """A turn of a conversation.

    Reasoning of earlier turns is taken and dropped. Content may be missing only beside
    tool calls or, in an answer to be gone on with, beside reasoning.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_content)] = ""
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    prefix: bool = False
    parsed: Any = None  # sent back by OpenAI's client: the content once more

    @property
    def thought(self) -> str | None:
        """What the message thought, under either name."""
        return (
            self.reasoning if self.reasoning_content is None else self.reasoning_content
        )

    def turn(self) -> dict[str, Any]:
        """Gives what the chat template sees."""
        role = "system" if self.role == "developer" else self.role
        turn: dict[str, Any] = {"role": role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn


class ChatRequest(SamplingRequest):
    """The body of a chat completion."""

    messages: list[Annotated[Message, BeforeValidator(_message_fields)]] = Field(
        min_length=1
    )
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    thinking: Thinking | None = None
    reasoning_effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ) = None
    thinking_token_budget: int | None = Field(None, ge=0)
    include_reasoning: bool = True
    separate_reasoning: bool = True
    stream_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] = Field({})
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: list[ToolSpec] = Field([], max_length=512)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool = True

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """Validates a request's body, and that its messages go together.

        Raises:
          ApiError: 400, naming the parameter at fault.
        """
        request = super().parse(body)
        for at, message in enumerate(request.messages):
            _check_message(message, f"messages[{at}]", at + 1 == len(request.messages))
        _check_calls(request.messages)
        if request.continues:
            _check_continuation(request)
        return request

    @property
    def continues(self) -> bool:
        """Whether the last message is an answer to be gone on with."""
        return self.continue_final_message or self.messages[-1].prefix

    @property
    def budget(self) -> int | None:
        """The thinking tokens that are allowed; None for any number."""
        if self.thinking_token_budget is not None:
            return self.thinking_token_budget
        return EFFORTS.get(self.reasoning_effort or "high")


def _check_message(message: Message, param: str, last: bool) -> None:
    """Refuses fields that do not belong to the message's role or place."""
    assistant, tool = message.role == "assistant", message.role == "tool"
    begun = assistant and message.thought is not None and last
    if not ("content" in message.model_fields_set or message.tool_calls or begun):
        raise missing(f"{param}.content")
    if tool and message.tool_call_id is None:
        raise missing(f"{param}.tool_call_id")
    for name, fits, where in (
        ("tool_calls", assistant or not message.tool_calls, "an assistant's message"),
        ("tool_call_id", tool or message.tool_call_id is None, "a tool's message"),
        (
            "prefix",
            (assistant and last) or not message.prefix,
            "the last message, an assistant's",
        ),
    ):
        if not fits:
            raise bad_request(
                f"'{param}.{name}' in a message of the role '{message.role}'",
                f"it belongs to {where}",
                f"leave '{name}' out",
                f"{param}.{name}",
                "invalid_value",
            )


def _check_calls(messages: list[Message]) -> None:
    """Refuses results of calls that nobody made."""
    made: set[str] = set()
    for at, message in enumerate(messages):
        made.update(call.id for call in message.tool_calls)
        if message.tool_call_id is not None and message.tool_call_id not in made:
            raise bad_request(
                f"no call has the id '{message.tool_call_id[:80]}'",
                "a tool's message answers a call of an earlier assistant's message",
                "send that message with its 'tool_calls', too",
                f"messages[{at}].tool_call_id",
                "invalid_value",
            )


def _check_continuation(request: ChatRequest) -> None:
    """Refuses to go on with what is no unfinished answer."""
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls:
        raise bad_request(
            "the last message cannot be gone on with",
            "it is not the beginning of an answer in words",
            "end with a message of the assistant, without tool calls",
            "messages",
            "invalid_value",
        )
    if request.add_generation_prompt:
        raise bad_request(
            "'add_generation_prompt' where the last message is to be gone on with",
            "either a new answer is begun, or the last one gone on with",
            "leave 'add_generation_prompt' out",
            "add_generation_prompt",
            "invalid_value",
        )
