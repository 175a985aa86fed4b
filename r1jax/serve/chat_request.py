"""The body of a chat completion, and the messages in it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from r1jax.engine.types import MAX_LOGPROBS
from r1jax.serve.errors import bad_request
from r1jax.serve.protocol import SamplingRequest


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
    return {k: v for k, v in value.items() if k == "content" or v not in (None, [])}


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
    """A turn of a conversation; reasoning of earlier turns is taken and dropped."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content)]
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    def turn(self) -> dict[str, str]:
        """Gives what the chat template sees."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class ChatRequest(SamplingRequest):
    """The body of a chat completion."""

    messages: list[Annotated[Message, BeforeValidator(_message_fields)]] = Field(
        min_length=1
    )
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    thinking: Thinking | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
