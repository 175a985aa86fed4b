"""Text completions: prompts as text or token ids, and OpenAI's older shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1jax.answer import AnswerBuilder, Delta
from r1jax.serve.completion_request import CompletionRequest
from r1jax.serve.errors import bad_request
from r1jax.serve.extras import extras
from r1jax.serve.generation import Choice
from r1jax.serve.job import Job, check_length, identity
from r1jax.serve.logprobs import PlacedLogprob, completion_entries
from r1jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from r1jax.llm import LLM

MAX_CHOICES = 1024


def prepare(body: dict[str, Any], llm: "LLM", model: str) -> Job:
    """Validates a completion request and turns it into choices for the engine.

    Raises:
      ApiError: Something in the request is wrong.
      RequestError: The sampling parameters are out of range.
    """
    request = CompletionRequest.parse(body)
    tokenizer, limit = llm.tokenizer, llm.engine.max_model_len
    request.check_ids(tokenizer.vocab_size)
    texts = _prompts(request.prompt)
    if len(texts) * request.n > MAX_CHOICES:
        raise bad_request(
            f"{len(texts)} prompts with {request.n} choices each",
            f"one request may ask for {MAX_CHOICES} choices",
            "send several requests",
            "prompt",
        )
    samplings = request.sampling(llm.default_sampling, limit, request.logprobs)
    forbidden = request.forbidden(tokenizer, llm.config.vocab_size)
    prompts = [_read(text, request, tokenizer, limit) for text in texts]
    choices = [
        Choice(
            prompt.ids,
            sampling,
            AnswerBuilder(
                tokenizer,
                request.stop,
                include_stop=request.include_stop_str_in_output,
                min_tokens=sampling.min_tokens,
                skip_special=request.skip_special_tokens,
            ),
            forbidden.guide() if forbidden else None,
        )
        for prompt in prompts
        for sampling in samplings
    ]
    each = [prompt for prompt in prompts for _ in samplings]
    return Job(
        choices,
        CompletionShape(tokenizer, model, each, request),
        sum(len(prompt.ids) for prompt in prompts),
        request.stream,
        request.stream_options,
        len(prompts),
        extras(request, tokenizer, [prompt.ids for prompt in each], at_top=False),
    )


@dataclass(frozen=True)
class Prompt:
    """A prompt: its ids, its text, and where in the text each token begins."""

    ids: list[int]
    text: str
    offsets: list[int]


def _prompts(value: object) -> list[str | list[int]]:
    """Reads the four forms of a prompt as a list of texts or token ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _is_ids(value):
            return [value]
        if all(isinstance(prompt, str) or _is_ids(prompt) for prompt in value):
            return value
    raise bad_request(
        "'prompt' cannot be read",
        "it is neither a text, nor token ids, nor a list of such",
        'send "text", ["text", ...], [1, 2, ...] or [[1, 2, ...], ...], none empty',
        "prompt",
        "invalid_value",
    )


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(type(i) is int for i in value)
    )


def _read(
    prompt: str | list[int],
    request: CompletionRequest,
    tokenizer: Tokenizer,
    limit: int,
) -> Prompt:
    """Gives a prompt's ids, and for an echo its text.

    Raises:
      ApiError: 400, it is empty or leaves no room for an answer.
    """
    hidden, skips = 0, request.skip_special_tokens
    if not isinstance(prompt, str):
        ids = prompt
    else:
        plain = tokenizer.encode(prompt)
        ids = tokenizer.encode_prompt(prompt) if request.add_special_tokens else plain
        # What the text names is echoed; what was put in front of it is not.
        hidden, skips = len(ids) - len(plain), False
        if not ids:
            raise bad_request(
                "the prompt is empty",
                "there is nothing to continue",
                "send at least one character",
                "prompt",
            )
    kept = request.truncated(ids, limit)
    check_length(len(kept) - (request.max_tokens == 0), limit, "prompt")
    if not request.echo:
        return Prompt(kept, "", [])
    if len(kept) < len(ids):
        hidden = 0 if request.truncation_side == "left" else hidden
    detokenizer = tokenizer.detokenizer(skips)
    text, offsets = "", []
    for position, token in enumerate(kept):
        offsets.append(len(text))
        text += "" if position < hidden else detokenizer.push(token)
    return Prompt(kept, text + detokenizer.flush(), offsets)


class CompletionShape:
    """Writes deltas as text chunks, and whole answers as text completions."""

    steady = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: str,
        prompts: Sequence[Prompt],
        request: CompletionRequest,
    ) -> None:
        """Takes the prompt of each choice."""
        self._tokenizer = tokenizer
        self._prompts, self._request = prompts, request
        self._head = identity("cmpl", model, request.request_id)
        self._head["object"] = "text_completion"
        self._begun: set[int] = set()

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Writes one delta; an echo comes with the first."""
        first = index not in self._begun
        self._begun.add(index)
        choice = self._choice(index, delta, first)
        if not (choice["text"] or delta.logprobs or delta.finish):
            return []
        return [{**self._head, "choices": [choice]}]

    def usage_chunk(self) -> dict[str, Any]:
        """Writes the chunk without choices that carries the usage."""
        return {**self._head, "choices": []}

    def whole(self, answers: Sequence[Delta]) -> dict[str, Any]:
        """Writes the finished choices."""
        choices = [
            self._choice(index, answer, first=True)
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices}

    def _choice(self, index: int, delta: Delta, first: bool) -> dict[str, Any]:
        return {
            "index": index,
            "text": (self._prompts[index].text if first else "") + delta.content,
            "logprobs": self._logprobs(index, delta, first),
            "finish_reason": delta.finish,
            "stop_reason": delta.stop,
        }

    def _logprobs(self, index: int, delta: Delta, first: bool) -> dict[str, Any] | None:
        count = self._request.logprobs
        if count is None:
            return None
        prompt = self._prompts[index]
        entries: list[PlacedLogprob] = []
        if first and prompt.offsets:
            entries += [
                (token, logprob, top[:count], offset)
                for (token, logprob, top), offset in zip(
                    delta.prompt, prompt.offsets, strict=True
                )
            ]
        entries += [
            (entry.token_id, entry.logprob, entry.top, len(prompt.text) + entry.offset)
            for entry in delta.logprobs
        ]
        ids = self._request.return_tokens_as_token_ids
        return completion_entries(self._tokenizer, entries, ids)
