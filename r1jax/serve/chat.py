"""Chat completions: from messages to a prompt, from deltas to OpenAI's shapes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r1jax.answer import AnswerBuilder, Delta, TokenLogprob
from r1jax.serve.chat_request import ChatRequest
from r1jax.serve.errors import bad_request
from r1jax.serve.generation import Choice
from r1jax.serve.job import Job, check_length, finite, identity
from r1jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from r1jax.llm import LLM

_SWITCHES = ("thinking", "enable_thinking")
_OWN_VARIABLES = {
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
}


def prepare(body: dict[str, Any], llm: "LLM", model: str) -> Job:
    """Validates a chat request and turns it into choices for the engine.

    Raises:
      ApiError: Something in the request is wrong.
      TextError: The chat template refuses the messages.
      RequestError: The sampling parameters are out of range.
    """
    request = ChatRequest.parse(body)
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request(
            "'top_logprobs' without 'logprobs'",
            "alternatives come beside the tokens' own log-probabilities",
            "set 'logprobs' to true",
            "top_logprobs",
        )
    if request.max_completion_tokens is not None:
        request.max_tokens = request.max_completion_tokens
    variables = _template_variables(request, llm.tokenizer)
    turns = [message.turn() for message in request.messages]
    text, thinking = llm.render(turns, _wants_thinking(request), variables)
    prompt = llm.tokenizer.encode(text)
    check_length(len(prompt), llm.engine.max_model_len, "messages")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    choices = [
        Choice(
            prompt,
            sampling,
            AnswerBuilder(
                llm.tokenizer,
                request.stop,
                thinking,
                request.include_stop_str_in_output,
            ),
        )
        for sampling in request.sampling(
            llm.default_sampling, llm.engine.max_model_len, logprobs
        )
    ]
    shape = ChatShape(llm.tokenizer, model, thinking, request.logprobs)
    return Job(choices, shape, len(prompt), request.stream, request.stream_options)


def _template_variables(request: ChatRequest, tokenizer: Tokenizer) -> dict[str, Any]:
    """Gives the template its variables, the two names of the switch always among them.

    Raises:
      ApiError: `chat_template_kwargs` has a name that the template does not read.
    """
    given = request.chat_template_kwargs
    template = tokenizer.chat_template
    known = set(_SWITCHES) | (template.variables if template else set())
    for name in given:
        if name not in known - _OWN_VARIABLES:
            raise bad_request(
                f"unknown template variable '{name[:80]}'",
                "the model's chat template does not read it",
                "leave it out of 'chat_template_kwargs'",
                "chat_template_kwargs",
            )
    for name in _SWITCHES:
        if not isinstance(given.get(name, True), bool):
            raise bad_request(
                f"'{name}' is not true or false",
                "it switches thinking on or off",
                "send a boolean",
                "chat_template_kwargs",
            )
    return given | dict.fromkeys(_SWITCHES, _wants_thinking(request))


def _wants_thinking(request: ChatRequest) -> bool:
    """Tells whether nothing in the request switches thinking off."""
    if request.thinking is not None and request.thinking.type == "disabled":
        return False
    return all(request.chat_template_kwargs.get(name, True) for name in _SWITCHES)


class ChatShape:
    """Writes deltas as chat chunks, and whole answers as chat completions."""

    steady = True

    def __init__(
        self, tokenizer: Tokenizer, model: str, thinking: bool | None, logprobs: bool
    ) -> None:
        """Fixes the id and time that all pieces of one answer carry."""
        self._tokenizer = tokenizer
        self._thinking = thinking
        self._logprobs = logprobs
        self._head = identity("chatcmpl", model)
        self._begun: set[int] = set()

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Writes one delta: the role first, then thinking, answer and finish."""
        chunks = []
        if index not in self._begun:
            self._begun.add(index)
            chunks.append(self._chunk(index, {"role": "assistant", "content": ""}))
        said = {}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.content:
            said["content"] = delta.content
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
                "message": self._message(answer),
                "logprobs": self._entries(answer.logprobs) if self._logprobs else None,
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices}

    def _message(self, answer: Delta) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.content}
        if self._thinking is not None:
            thought = self._thinking or answer.reasoning_tokens > 0
            message["reasoning_content"] = answer.reasoning if thought else None
        return message

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
        if self._thinking is not None:
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
