"""The body of Anthropic's POST /v1/messages, and the chat completion that it means."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from r1jax.serve.errors import bad_request
from r1jax.serve.protocol import MAX_STOPS, Sampled
from r1jax.serve.stream import write_json

ChatMessage = dict[str, Any]
_KINDS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CacheControl(_Part):
    """Anthropic's marks of what to cache; here all that can be is cached anyway."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(_Part):
    cache_control: CacheControl | None = None


class TextBlock(_Block):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(_Block):
    """Thoughts of an earlier turn; the model's template leaves them out."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(_Block):
    """Thoughts that another server has hidden; they are left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(_Block):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


def _said(block: object) -> object:
    """Drops what is empty, as clients send blocks back that they got."""
    if not isinstance(block, dict):
        return block
    return {k: v for k, v in block.items() if k == "content" or v not in (None, [])}


def _blocks(value: object) -> object:
    """Takes a text for a list of one, and refuses blocks that are no text by name."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        return value
    blocks = []
    for block in value:
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind not in _KINDS:
            raise bad_request(
                f"a content block has the type '{kind[:40]}'",
                "the model reads text only",
                'send blocks such as {"type": "text", "text": "..."}',
                "messages",
            )
        blocks.append(_said(block))
    return blocks


_Texts = Annotated[
    list[TextBlock],
    BeforeValidator(_blocks, json_schema_input_type=str | list[TextBlock]),
]


class ToolResultBlock(_Block):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: _Texts = Field([])
    is_error: bool = False


_ContentBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]


class Turn(_Part):
    """A turn of the conversation."""

    role: Literal["user", "assistant"]
    content: Annotated[
        list[_ContentBlock],
        BeforeValidator(_blocks, json_schema_input_type=str | list[_ContentBlock]),
    ]


class Tool(_Block):
    """A function that the model may call."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None


class AnyToolChoice(_Part):
    """Whether a tool must be called, and perhaps which."""

    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingChoice(_Part):
    """Whether to think, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["full"] | None = None  # nothing here summarizes


class JsonOutput(BaseModel):
    """JSON that satisfies a schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Part):
    """In what form to answer, and how hard to think."""

    effort: str | None = None
    format: JsonOutput | None = None


class MessageInput(Sampled):
    """What makes up the prompt; it can be counted without being answered."""

    messages: list[Turn] = Field(min_length=1)
    system: _Texts = Field([])
    tools: list[Tool] = Field([])
    tool_choice: AnyToolChoice | None = None
    thinking: ThinkingChoice | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
    cache_control: CacheControl | None = None

    def chat_body(self) -> dict[str, Any]:
        """Gives the chat completion that this asks for."""
        shared = self.model_dump(include=set(Sampled.model_fields) - {"model"})
        body: dict[str, Any] = {
            **{name: shared[name] for name in shared if name in self.model_fields_set},
            "messages": [*self._system(), *self._turns()],
            "chat_template_kwargs": self.chat_template_kwargs,
        }
        if self.messages[-1].role == "assistant":  # the answer's beginning
            body["continue_final_message"] = True
        if self.thinking is not None:
            thinks = self.thinking.type != "disabled"
            body["thinking"] = {"type": "enabled" if thinks else "disabled"}
            body["thinking_token_budget"] = self.thinking.budget_tokens
        if self.tools or self.tool_choice is not None:
            body |= self._tools()
        if self.output_config is not None:
            body["reasoning_effort"] = self.output_config.effort
            body["response_format"] = _response_format(self.output_config.format)
        return {name: value for name, value in body.items() if value is not None}

    def _system(self) -> list[ChatMessage]:
        content = _joined(self.system)
        return [{"role": "system", "content": content}] if content else []

    def _turns(self) -> Iterator[ChatMessage]:
        for turn in self.messages:
            yield from (_answer if turn.role == "assistant" else _question)(turn)

    def _tools(self) -> dict[str, Any]:
        asked = self.tool_choice or AnyToolChoice(type="auto")
        choice: Any = {"any": "required"}.get(asked.type, asked.type)
        if asked.type == "tool":
            choice = {"type": "function", "function": {"name": asked.name}}
        return {
            "tools": [
                {"type": "function", "function": _function(t)} for t in self.tools
            ],
            "tool_choice": choice,
            "parallel_tool_calls": not asked.disable_parallel_tool_use,
        }


class MessageRequest(MessageInput):
    """The body of a message."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[Annotated[str, Field(min_length=1)]] = Field(
        [], max_length=MAX_STOPS
    )
    stream: bool = False

    def check(self) -> None:
        """Refuses parameters that do not go together.

        Raises:
          ApiError: 400, naming one of them.
        """
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise bad_request(
                f"'thinking.budget_tokens' is {budget} where 'max_tokens' is "
                f"{self.max_tokens}",
                "thoughts count as tokens of the answer, which would have no room",
                "send a smaller budget, or a larger 'max_tokens'",
                "thinking.budget_tokens",
            )

    def chat_body(self) -> dict[str, Any]:
        """Gives the chat completion that this asks for."""
        return super().chat_body() | {
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "stream": self.stream,
        }


def _function(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {name: value for name, value in function.items() if value is not None}


def _response_format(wanted: JsonOutput | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    schema = {"name": "output", "schema": wanted.schema_, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _answer(turn: Turn) -> Iterator[ChatMessage]:
    """Gives an assistant's turn; it is one, whatever blocks it has."""
    calls, thoughts, texts = [], [], []
    for block in turn.content:
        if isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": write_json(block.input)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolResultBlock):
            raise _misplaced("tool_result", "assistant")
    content = "\n".join(texts)
    message: ChatMessage = {"role": "assistant", "content": content}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    yield message


def _question(turn: Turn) -> Iterator[ChatMessage]:
    """Gives a user's turn: results of calls each by itself, and texts joined."""
    texts: list[TextBlock] = []
    for block in turn.content:
        if isinstance(block, TextBlock):
            texts.append(block)
        elif isinstance(block, ToolResultBlock):
            yield from _user(texts)
            texts = []
            result = {"role": "tool", "tool_call_id": block.tool_use_id}
            failed = "Error: " if block.is_error else ""
            yield {**result, "content": failed + _joined(block.content)}
        else:
            raise _misplaced(block.type, "user")
    yield from _user(texts)
    if not turn.content:
        yield {"role": "user", "content": ""}


def _user(texts: list[TextBlock]) -> Iterator[ChatMessage]:
    if texts:
        yield {"role": "user", "content": _joined(texts)}


def _joined(blocks: Sequence[TextBlock]) -> str:
    return "\n".join(block.text for block in blocks)


def _misplaced(kind: str, role: str) -> Exception:
    return bad_request(
        f"a block of type '{kind}' in a turn of the {role}",
        "it belongs to the other side of the conversation",
        "send it in a turn of its own side",
        "messages",
    )
