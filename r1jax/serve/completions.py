"""Text completions: prompts as text or token ids, and OpenAI's older shapes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r1jax.answer import AnswerBuilder, Delta, TokenLogprob
from r1jax.serve.errors import ApiError, bad_request
from r1jax.serve.generation import Choice
from r1jax.serve.job import Job, check_length, finite, identity
from r1jax.serve.protocol import CompletionRequest
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
    _check_combinations(request)
    prompts = _prompts(request.prompt)
    if len(prompts) * request.n > MAX_CHOICES:
        raise bad_request(
            f"{len(prompts)} prompts with {request.n} choices each",
            f"one request may ask for {MAX_CHOICES} choices",
            "send several requests",
            "prompt",
        )
    limit = llm.engine.max_model_len
    samplings = request.sampling(llm.default_sampling, limit, request.logprobs)
    choices, echoes, prompt_tokens = [], [], 0
    for prompt in prompts:
        ids = _encode(prompt, request.add_special_tokens, llm.tokenizer)
        check_length(len(ids), limit, "prompt")
        prompt_tokens += len(ids)
        for sampling in samplings:
            builder = AnswerBuilder(
                llm.tokenizer,
                request.stop,
                include_stop=request.include_stop_str_in_output,
            )
            choices.append(Choice(ids, sampling, builder))
            echoes.append(_echo(prompt, llm.tokenizer) if request.echo else "")
    shape = CompletionShape(llm.tokenizer, model, echoes, request.logprobs is not None)
    return Job(choices, shape, prompt_tokens, request.stream, request.stream_options)


def _check_combinations(request: CompletionRequest) -> None:
    if request.best_of is not None and request.best_of != request.n:
        raise bad_request(
            f"'best_of' is {request.best_of} where 'n' is {request.n}",
            "every choice that is generated is returned",
            "leave 'best_of' out and choose among 'n'",
            "best_of",
            "unsupported_parameter",
        )
    if request.echo and request.logprobs is not None:
        raise bad_request(
            "'echo' together with 'logprobs' is not supported",
            "log-probabilities of prompt tokens are not computed",
            "leave one of them out",
            "echo",
            "unsupported_parameter",
        )


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


def _encode(prompt: str | list[int], special: bool, tokenizer: Tokenizer) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    ids = tokenizer.encode_prompt(prompt) if special else tokenizer.encode(prompt)
    if not ids:
        raise ApiError(
            400,
            "the prompt is empty",
            "there is nothing to continue",
            "send at least one character",
            param="prompt",
        )
    return ids


def _echo(prompt: str | list[int], tokenizer: Tokenizer) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


class CompletionShape:
    """Writes deltas as text chunks, and whole answers as text completions."""

    steady = True

    def __init__(
        self, tokenizer: Tokenizer, model: str, echoes: Sequence[str], logprobs: bool
    ) -> None:
        """Takes the text to put before each choice ("" for none)."""
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._logprobs = logprobs
        self._head = identity("cmpl", model) | {"object": "text_completion"}
        self._begun: set[int] = set()

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """Writes one delta; an echo comes with the first."""
        text = delta.content
        if index not in self._begun:
            self._begun.add(index)
            text = self._echoes[index] + text
        if not (text or delta.logprobs or delta.finish):
            return []
        choice = self._choice(index, text, delta)
        return [{**self._head, "choices": [choice]}]

    def usage_chunk(self) -> dict[str, Any]:
        """Writes the chunk without choices that carries the usage."""
        return {**self._head, "choices": []}

    def whole(self, answers: Sequence[Delta]) -> dict[str, Any]:
        """Writes the finished choices."""
        choices = [
            self._choice(index, self._echoes[index] + answer.content, answer)
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices}

    def _choice(self, index: int, text: str, delta: Delta) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._entries(delta.logprobs) if self._logprobs else None,
            "finish_reason": delta.finish,
        }

    def _entries(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "tokens": [self._name(entry.token_id) for entry in logprobs],
            "token_logprobs": [finite(entry.logprob) for entry in logprobs],
            "top_logprobs": [self._top(entry) for entry in logprobs],
            "text_offset": [entry.offset for entry in logprobs],
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """Names the likeliest tokens, and the chosen one wherever it ranks."""
        pairs = (*entry.top, (entry.token_id, entry.logprob))
        return {self._name(token): finite(logprob) for token, logprob in pairs}

    def _name(self, token_id: int) -> str:
        """Writes a token as text; half a character as "bytes:" and its bytes in hex."""
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
