"""The body of OpenAI's POST /v1/responses, and the chat completion that it means."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from r1jax.engine.types import MAX_LOGPROBS
from r1jax.serve.errors import bad_request
from r1jax.serve.protocol import Sampled

ChatMessage = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _said(value: object) -> object:
    """Drops what is empty, as clients send items back that they got."""
    if not isinstance(value, dict):
        return value
    return {k: v for k, v in value.items() if k == "content" or v not in (None, [])}


class TextPart(_Part):
    """A piece of a message, of either side."""

    type: Literal["input_text", "output_text", "text", "reasoning_text"]
    text: str


class SummaryPart(_Part):
    """A piece of a summary of thoughts."""

    type: Literal["summary_text"]
    text: str


def _text_parts(value: object) -> object:
    """Takes a text for a list of one, and refuses parts that are no text by name."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    for part in value if isinstance(value, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and not kind.endswith("text"):
            raise bad_request(
                f"a content part has the type '{kind[:40]}'",
                "the model reads text only",
                'send parts such as {"type": "input_text", "text": "..."}',
                "input",
            )
    return [_said(part) for part in value] if isinstance(value, list) else value


_Texts = Annotated[
    list[TextPart],
    BeforeValidator(_text_parts, json_schema_input_type=str | list[TextPart]),
]


class InputMessage(_Part):
    """A turn of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Texts
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class Reasoning(_Part):
    """Thoughts of an earlier turn; the model's template leaves them out."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[SummaryPart] = []
    content: list[TextPart] = []
    status: str | None = None


class FunctionCall(_Part):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutput(_Part):
    """What came of it."""

    type: Literal["function_call_output"]
    call_id: str
    output: _Texts
    id: str | None = None
    status: str | None = None


_Item = Annotated[
    InputMessage | Reasoning | FunctionCall | FunctionCallOutput,
    Field(discriminator="type"),
]


def _items(value: object) -> object:
    """Takes a text for one message, and an item without a type for a message."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        return value
    return [
        {"type": "message", **_said(item)} if isinstance(item, dict) else item  # type: ignore[dict-item]
        for item in value
    ]


class FunctionTool(_Part):
    """A function that the model may call; no other kind of tool is known here."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(_Part):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(_Part):
    """No format: text."""

    type: Literal["text"]


class JsonObjectFormat(_Part):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(BaseModel):
    """JSON that satisfies a schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(_Part):
    """In what form to answer."""

    format: Annotated[
        TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
    ] = TextFormat(type="text")
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(_Part):
    """How hard to think. Thoughts come whole, never as a summary."""

    effort: str | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class ResponseStreamOptions(_Part):
    """OpenAI pads events against eavesdroppers; this server does not."""

    include_obfuscation: Literal[False] = False


_INCLUDED = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]


class ResponseRequest(Sampled):
    """The body of a response."""

    input: Annotated[
        list[_Item],
        BeforeValidator(_items, json_schema_input_type=str | list[_Item]),
        Field(min_length=1),
    ]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedFunction = "auto"
    parallel_tool_calls: bool = True
    include: list[_INCLUDED] = Field([])
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False
    metadata: dict[str, str] = Field({})
    user: str | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
    thinking_token_budget: int | None = Field(None, ge=0)

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's text comes with log-probabilities."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in self.include

    def chat_body(self, earlier: Sequence[ChatMessage]) -> dict[str, Any]:
        """Gives the chat completion that this asks for.

        Args:
          earlier: The conversation so far.
        """
        system = {"role": "system", "content": self.instructions}
        shared = self.model_dump(include=set(Sampled.model_fields) - {"model"})
        body: dict[str, Any] = {
            **{name: shared[name] for name in shared if name in self.model_fields_set},
            "messages": [
                *([system] if self.instructions is not None else []),
                *earlier,
                *self.messages(),
            ],
            "max_completion_tokens": self.max_output_tokens,
            "chat_template_kwargs": self.chat_template_kwargs,
            "thinking_token_budget": self.thinking_token_budget,
            "stream": self.stream,
        }
        if self.wants_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if self.reasoning is not None:
            body["reasoning_effort"] = self.reasoning.effort
        if self.tools or self.tool_choice != "auto":
            body |= self._tools()
        if self.text is not None:
            body["response_format"] = _response_format(self.text)
        return {name: value for name, value in body.items() if value is not None}

    def messages(self) -> list[ChatMessage]:
        """Gives the input as chat messages.

        Thoughts, text and calls that follow each other are one turn of the assistant.
        """
        return list(_turns(self.input))

    def _tools(self) -> dict[str, Any]:
        choice: Any = self.tool_choice
        if isinstance(choice, NamedFunction):
            choice = {"type": "function", "function": {"name": choice.name}}
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools]
        return {
            "tools": [{"type": tool.pop("type"), "function": tool} for tool in tools],
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
        }


def _response_format(text: TextOptions) -> dict[str, Any]:
    written = text.format.model_dump(by_alias=True, exclude_none=True)
    if not isinstance(text.format, JsonSchemaFormat):
        return written
    return {"type": written.pop("type"), "json_schema": written}


def _turns(items: Sequence[_Item]) -> Iterator[ChatMessage]:
    answer: ChatMessage = {}
    for item in items:
        turn = _turn(item)
        adds = turn["role"] == "assistant"
        # A second text is a turn of its own, and so are thoughts after an answer.
        begins = "tool_calls" not in turn and "content" in answer
        same = adds and answer and not begins
        if same:
            answer["tool_calls"] = [
                *answer.get("tool_calls", []),
                *turn.pop("tool_calls", []),
            ]
            answer |= turn
            continue
        if answer:
            yield _complete(answer)
        answer = turn if adds else {}
        if not adds:
            yield turn
    if answer:
        yield _complete(answer)


def _complete(answer: ChatMessage) -> ChatMessage:
    """Fills in what an assistant's turn must have."""
    calls = answer.pop("tool_calls", [])
    content = answer.pop("content", None if calls else "")
    return answer | {"content": content} | ({"tool_calls": calls} if calls else {})


def _turn(item: _Item) -> ChatMessage:
    if isinstance(item, InputMessage):
        return {"role": item.role, "content": _joined(item.content)}
    if isinstance(item, Reasoning):
        thoughts = _joined(item.content) or _joined(item.summary)
        return {"role": "assistant", "reasoning_content": thoughts}
    if isinstance(item, FunctionCallOutput):
        output = _joined(item.output)
        return {"role": "tool", "tool_call_id": item.call_id, "content": output}
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call]}


def _joined(parts: Sequence[TextPart | SummaryPart]) -> str:
    return "\n".join(part.text for part in parts)
