"""OpenAI's responses: items for thoughts, text and calls, and the events of each."""

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from r1jax.answer import Delta
from r1jax.serve import chat
from r1jax.serve.errors import ApiError
from r1jax.serve.generation import Choice
from r1jax.serve.job import Usage
from r1jax.serve.logprobs import token_entry
from r1jax.serve.response_request import ResponseRequest
from r1jax.serve.response_store import ResponseStore, Stored
from r1jax.serve.typed import Event, TypedJob
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_calls import ToolDelta

if TYPE_CHECKING:
    from r1jax.llm import LLM

# What chat completions call a parameter, and what it is called here.
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}


def prepare(
    body: dict[str, Any], llm: "LLM", model: str, store: ResponseStore
) -> TypedJob:
    """Validates a request for a response and turns it into a choice for the engine.

    Raises:
      ApiError: Something in the request is wrong, or the response that it goes on from
        is not kept.
      TextError: The chat template refuses the conversation.
      RequestError: The sampling parameters are out of range.
    """
    request = ResponseRequest.parse(body)
    earlier = []
    if request.previous_response_id is not None:
        name = "previous_response_id"
        earlier = store.get(request.previous_response_id, name).messages
    try:
        job = chat.prepare(request.chat_body(earlier), llm, model)
    except ApiError as error:
        error.param = _NAMES.get(error.param or "", error.param)
        raise
    (choice,) = job.choices

    def keep(response: dict[str, Any], said: dict[str, Any]) -> None:
        if request.store:
            store.put(Stored(response, [*earlier, *request.messages(), said]))

    shape = ResponseShape(llm.tokenizer, model, request, choice, keep)
    return TypedJob(choice, shape, job.prompt_tokens, request.stream)


class ResponseShape:
    """Writes deltas as the items of one response."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: str,
        request: ResponseRequest,
        choice: Choice,
        keep: Callable[[dict[str, Any], dict[str, Any]], None],
    ) -> None:
        """Starts a response; `keep` gets it in the end, and the turn that it adds."""
        self._tokenizer, self._request, self._keep = tokenizer, request, keep
        self._response = _head(request, choice, model)
        self._output: list[dict[str, Any]] = self._response["output"]
        self._open: str | int | None = None  # the kind of the last item, or which call
        self._entries: list[dict[str, Any]] = []  # not yet written
        self._numbered = 0
        self._finish: str | None = None

    def start(self) -> list[Event]:
        """Writes that the response has begun."""
        return [
            self._event(kind, response=self._response | {"output": []})
            for kind in ("response.created", "response.in_progress")
        ]

    def events(self, delta: Delta, usage: Usage) -> list[Event]:
        """Takes one delta."""
        events: list[Event] = []
        if delta.reasoning:
            events += self._turn_to("reasoning", _reasoning)
            events += self._add_text("reasoning_text", delta.reasoning)
        self._entries += [
            token_entry(self._tokenizer, entry, ids=False)
            for entry in delta.logprobs
            if not entry.reasoning
        ]
        # The first tokens of an answer may have no text yet; they wait for it.
        if delta.content or (self._entries and self._open == "message"):
            events += self._turn_to("message", _message)
            events += self._add_text("output_text", delta.content, self._entries)
            self._entries = []
        for call in delta.tool_calls:
            events += self._add_call(call)
        self._finish = delta.finish or self._finish
        return events

    def end(self, usage: Usage) -> list[Event]:
        """Closes the last item, and the response."""
        cut = self._finish == "length"
        events = self._close("incomplete" if cut else "completed")
        self._response |= {
            "status": "incomplete" if cut else "completed",
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": _usage(usage),
        }
        self._keep(self._response, _chat_message(self._output))
        kind = "response.incomplete" if cut else "response.completed"
        return [*events, self._event(kind, response=self._response)]

    def failed(self, error: ApiError) -> list[Event]:
        """Writes that the answer broke off."""
        told = error.body()["error"]
        self._response |= {
            "status": "failed",
            "error": {"code": "server_error", "message": told["message"]},
        }
        said = {name: told[name] for name in ("code", "message", "param")}
        return [
            self._event("error", **said),
            self._event("response.failed", response=self._response),
        ]

    def body(self, usage: Usage) -> dict[str, Any]:
        """Gives the finished response."""
        return self._response

    def _event(self, kind: str, **fields: Any) -> Event:
        number = self._numbered
        self._numbered += 1
        return {"type": kind, "sequence_number": number, **fields}

    def _about(self, kind: str, **fields: Any) -> Event:
        """Writes an event about the last item."""
        place = {"item_id": self._output[-1]["id"], "output_index": self._index}
        return self._event(kind, **place, **fields)

    @property
    def _index(self) -> int:
        return len(self._output) - 1

    def _turn_to(
        self, name: str | int, make: Callable[[], dict[str, Any]]
    ) -> list[Event]:
        """Closes the last item and opens another, unless it is the one wanted."""
        if self._open == name:
            return []
        events = self._close("completed")
        self._open = name
        item = make()
        parts = item.get("content", [])
        shown = item | ({"content": []} if parts else {})
        self._output.append(item)
        added = {"output_index": self._index, "item": shown}
        events.append(self._event("response.output_item.added", **added))
        for part in parts:
            fields = {"content_index": 0, "part": dict(part)}
            events.append(self._about("response.content_part.added", **fields))
        return events

    def _close(self, status: str) -> list[Event]:
        """Writes what the last item has come to."""
        if self._open is None:
            return []
        item = self._output[-1]
        item["status"] = status
        self._open = None
        if item["type"] == "function_call":
            said = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._about("response.function_call_arguments.done", **said)]
        else:
            (part,) = item["content"]
            said = {name: part[name] for name in ("text", "logprobs") if name in part}
            kind = f"response.{part['type']}.done"
            events = [
                self._about(kind, content_index=0, **said),
                self._about("response.content_part.done", content_index=0, part=part),
            ]
        done = {"output_index": self._index, "item": item}
        return [*events, self._event("response.output_item.done", **done)]

    def _add_text(
        self, kind: str, text: str, entries: list[dict[str, Any]] | None = None
    ) -> list[Event]:
        (part,) = self._output[-1]["content"]
        part["text"] += text
        added: dict[str, Any] = {"content_index": 0, "delta": text}
        if entries is not None:
            part["logprobs"] += entries
            added["logprobs"] = entries
        return [self._about(f"response.{kind}.delta", **added)]

    def _add_call(self, call: ToolDelta) -> list[Event]:
        events = self._turn_to(call.index, lambda: _function_call(call))
        self._output[-1]["arguments"] += call.arguments
        if call.arguments:
            kind = "response.function_call_arguments.delta"
            events.append(self._about(kind, delta=call.arguments))
        return events


def _head(request: ResponseRequest, choice: Choice, model: str) -> dict[str, Any]:
    """Gives a response without output: mostly what was asked for."""
    text, reasoning = request.text, request.reasoning
    written = request.model_dump(mode="json", by_alias=True, include={"tools", "text"})
    named = request.tool_choice
    return {
        "id": _name("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": "default",
        "store": request.store,
        "temperature": choice.sampling.temperature,
        "text": written["text"] if text else {"format": {"type": "text"}},
        "tool_choice": named if isinstance(named, str) else named.model_dump(),
        "tools": written["tools"],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": choice.sampling.top_p,
        "truncation": request.truncation,
        "usage": None,
        "user": request.user,
    }


def _name(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _reasoning() -> dict[str, Any]:
    return {
        "id": _name("rs"),
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": ""}],
        "status": "in_progress",
    }


def _message() -> dict[str, Any]:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {
        "id": _name("msg"),
        "type": "message",
        "role": "assistant",
        "content": [part],
        "status": "in_progress",
    }


def _function_call(call: ToolDelta) -> dict[str, Any]:
    return {
        "id": _name("fc"),
        "type": "function_call",
        "call_id": call.id or _name("call"),
        "name": call.name or "",
        "arguments": "",
        "status": "in_progress",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _chat_message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """Gives the answer as a turn of the conversation, for the next response."""
    text = "".join(
        part["text"]
        for item in output
        if item["type"] == "message"
        for part in item["content"]
    )
    calls = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in output
        if item["type"] == "function_call"
    ]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return message | {"tool_calls": calls} if calls else message
