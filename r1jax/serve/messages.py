"""Anthropic's messages: blocks of thoughts, text and tool use, and their events."""

import json
import secrets
from typing import TYPE_CHECKING, Any

from r1jax.answer import Delta
from r1jax.serve import chat
from r1jax.serve.errors import ApiError, anthropic_body
from r1jax.serve.job import Usage
from r1jax.serve.message_request import MessageInput, MessageRequest
from r1jax.serve.typed import Event, TypedJob
from r1jax.text.tool_calls import ToolDelta

if TYPE_CHECKING:
    from r1jax.llm import LLM

_BLOCKS: dict[str, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}


def prepare(body: dict[str, Any], llm: "LLM", model: str) -> TypedJob:
    """Validates a request for a message and turns it into a choice for the engine.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the conversation.
      RequestError: The sampling parameters are out of range.
    """
    request = MessageRequest.parse(body)
    job = chat.prepare(request.chat_body(), llm, model)
    (choice,) = job.choices
    return TypedJob(choice, MessageShape(model), job.prompt_tokens, request.stream)


def count(body: dict[str, Any], llm: "LLM", model: str) -> dict[str, Any]:
    """Counts the tokens of a prompt without answering it.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the conversation.
    """
    request = MessageInput.parse(body)
    return {"input_tokens": len(chat.prompt(request.chat_body(), llm))}


class MessageShape:
    """Writes deltas as the content blocks of one message."""

    def __init__(self, model: str) -> None:
        """Starts a message."""
        self._message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._content: list[dict[str, Any]] = self._message["content"]
        self._begun = False
        self._open: str | int | None = None  # the kind of the last block, or which call
        self._arguments = ""

    def start(self) -> list[Event]:
        """Writes nothing: the first event tells what the first token brings."""
        return []

    def events(self, delta: Delta, usage: Usage) -> list[Event]:
        """Takes one delta."""
        events = self._begin(usage)
        if delta.reasoning:
            events += self._add_text("thinking", delta.reasoning)
        if delta.content:
            events += self._add_text("text", delta.content)
        for call in delta.tool_calls:
            events += self._add_call(call)
        if delta.finish:
            self._message |= _ending(delta)
        return events

    def end(self, usage: Usage) -> list[Event]:
        """Closes the last block, and the message."""
        events = [*self._begin(usage), *self._close()]
        names = ("stop_reason", "stop_sequence")
        ending = {name: self._message[name] for name in names}
        usage_now = {"usage": _usage(usage)}
        return [
            *events,
            {"type": "message_delta", "delta": ending, **usage_now},
            {"type": "message_stop"},
        ]

    def failed(self, error: ApiError) -> list[Event]:
        """Writes that the answer broke off."""
        return [anthropic_body(error)]

    def body(self, usage: Usage) -> dict[str, Any]:
        """Gives the finished message."""
        return self._message | {"usage": _usage(usage)}

    def _begin(self, usage: Usage) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        empty = {"content": [], "usage": _usage(usage) | {"output_tokens": 0}}
        start = {"type": "message_start", "message": self._message | empty}
        return [start, {"type": "ping"}]

    def _turn_to(self, name: str | int, block: dict[str, Any]) -> list[Event]:
        """Closes the last block and opens another, unless it is the one wanted."""
        if self._open == name:
            return []
        events = self._close()
        self._open = name
        self._content.append(dict(block))
        start = {"type": "content_block_start", "index": self._index}
        return [*events, {**start, "content_block": dict(block)}]

    @property
    def _index(self) -> int:
        return len(self._content) - 1

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        block = self._content[-1]
        if block["type"] == "tool_use":
            block["input"] = _object(self._arguments)
        self._open = None
        return [{"type": "content_block_stop", "index": self._index}]

    def _delta(self, kind: str, name: str, text: str) -> Event:
        delta = {"type": kind, name: text}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _add_text(self, kind: str, text: str) -> list[Event]:
        events = self._turn_to(kind, _BLOCKS[kind])
        self._content[-1][kind] += text
        return [*events, self._delta(f"{kind}_delta", kind, text)]

    def _add_call(self, call: ToolDelta) -> list[Event]:
        number = call.id or f"toolu_{secrets.token_hex(12)}"
        block = {"type": "tool_use", "id": number, "name": call.name or "", "input": {}}
        events = self._turn_to(call.index, block)
        if events:
            self._arguments = ""
        self._arguments += call.arguments
        if call.arguments:
            events.append(
                self._delta("input_json_delta", "partial_json", call.arguments)
            )
        return events


def _ending(delta: Delta) -> dict[str, Any]:
    """Gives why the answer ended, in Anthropic's words."""
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    reason = reasons.get(str(delta.finish), "end_turn")
    matched = delta.stop if isinstance(delta.stop, str) else None
    if matched is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": matched}


def _object(arguments: str) -> dict[str, Any]:
    """Reads a call's arguments; an answer cut short has none that can be read."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage) -> dict[str, Any]:
    """Counts as Anthropic does: tokens found in the cache are no part of the input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
