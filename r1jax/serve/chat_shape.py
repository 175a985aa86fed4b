"""Chat completions as OpenAI writes them: deltas as chunks, answers whole."""

from collections.abc import Sequence
from typing import Any

from r1jax.answer import Delta, TokenLogprob
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.job import finite, identity
from r1jax.text.prompts import THINK
from r1jax.text.thinking import CLOSING
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_calls import ToolDelta

# DeepSeek's name for the thoughts, and vLLM's.
REASONING = ("reasoning_content", "reasoning")


class ThoughtView:
    """Decides how the thoughts of answers are shown.

    Attributes:
        include: whether at all.
    """

    def __init__(self, include: bool, separate: bool, stream: bool) -> None:
        """Takes vLLM's `include_reasoning` and SGLang's switches.

        Args:
            include: shows thoughts.
            separate: shows them beside the content, else in it between their tags.
            stream: streams them as they come, else in one piece once they are over.
        """
        self.include = include
        self._separate, self._stream = separate, stream
        self._held: dict[int, str] = {}
        self._inside: set[int] = set()

    @property
    def is_apart(self) -> bool:
        """Whether thoughts have fields of their own."""
        return self.include and self._separate

    def pieces(self, index: int, delta: Delta) -> dict[str, str]:
        """Gives the fields of text that a delta of one choice adds, none empty."""
        over = bool(delta.content or delta.tool_calls or delta.finish)
        thought = delta.reasoning if self.include else ""
        if not self._stream:
            thought = self._held.pop(index, "") + thought
            if not over:
                self._held[index] = thought
                thought = ""
        content = delta.content
        if not self._separate:
            content = self._tagged(index, thought, content, bool(delta.tool_calls))
            return {"content": content} if content else {}
        said = dict.fromkeys(REASONING, thought) if thought else {}
        return said | ({"content": content} if content else {})

    def _tagged(self, index: int, thought: str, content: str, calls: bool) -> str:
        """Writes thoughts and content as one text."""
        text = ""
        if thought:
            text = thought if index in self._inside else THINK + thought
            self._inside.add(index)
        if (content or calls) and index in self._inside:
            self._inside.discard(index)
            text += CLOSING
        return text + content


class ChatShape:
    """Writes deltas as chat chunks, and whole answers as chat completions."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: str,
        thinking: bool | None,
        request: ChatRequest,
    ) -> None:
        """Fixes the id and time that all pieces of one answer carry."""
        self._view = ThoughtView(
            request.include_reasoning,
            request.separate_reasoning,
            request.stream_reasoning,
        )
        self._tokenizer = tokenizer
        self._thinking = thinking
        self._logprobs = request.logprobs
        self._head = identity("chatcmpl", model)
        self._begun: set[int] = set()

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Writes one delta: the role first, then thinking, answer and finish."""
        chunks = []
        if index not in self._begun:
            self._begun.add(index)
            chunks.append(self._chunk(index, {"role": "assistant", "content": ""}))
        said: dict[str, Any] = dict(self._view.pieces(index, delta))
        if delta.tool_calls:
            said["tool_calls"] = [_call_piece(piece) for piece in delta.tool_calls]
        if said or delta.logprobs or delta.finish:
            entries = self._entries(delta.logprobs) if self._logprobs else None
            chunks.append(self._chunk(index, said, entries, delta.finish))
        return chunks

    def usage_chunk(self) -> dict[str, Any]:
        """Writes the chunk without choices that carries the usage."""
        return {**self._head, "object": "chat.completion.chunk", "choices": []}

    def whole(self, answers: Sequence[Delta]) -> dict[str, Any]:
        """Writes the finished choices."""
        choices = [
            {
                "index": index,
                "message": self._message(index, answer),
                "logprobs": self._entries(answer.logprobs) if self._logprobs else None,
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices}

    def _message(self, index: int, answer: Delta) -> dict[str, Any]:
        said = self._view.pieces(index, answer)
        content = said.pop("content", "")
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if answer.tool_calls:
            message["content"] = content or None
            message["tool_calls"] = [_call(call) for call in answer.tool_calls]
        if self._thinking is None or not self._view.is_apart:
            return message
        thought = self._thinking or answer.reasoning_tokens > 0
        reasoning = answer.reasoning if thought else None
        return message | dict.fromkeys(REASONING, reasoning)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _entries(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Writes log-probabilities, those of the thinking part on their own."""
        answer = [self._entry(e) for e in logprobs if not e.reasoning]
        entries: dict[str, Any] = {"content": answer}
        if self._thinking is not None and self._view.include:
            entries["reasoning_content"] = [
                self._entry(e) for e in logprobs if e.reasoning
            ]
        return entries

    def _entry(self, entry: TokenLogprob) -> dict[str, Any]:
        top = [self._token(*alternative) for alternative in entry.top]
        return {**self._token(entry.token_id, entry.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        return {
            "token": data.decode("utf-8", "replace"),
            "logprob": finite(logprob),
            "bytes": list(data),
        }


def _call(call: ToolDelta) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_piece(piece: ToolDelta) -> dict[str, Any]:
    """Writes a piece of a call: what it is comes first, then its arguments."""
    if piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {"index": piece.index, **_call(piece)}
