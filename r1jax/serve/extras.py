"""What vLLM adds to OpenAI's shapes: token ids, and the prompt's log-probabilities."""

from collections.abc import Sequence
from typing import Any

from r1jax.answer import Delta
from r1jax.serve.logprobs import prompt_entries
from r1jax.serve.protocol import SamplingRequest
from r1jax.text.tokenizer import Tokenizer


def extras(
    request: SamplingRequest,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    at_top: bool,
) -> "Extras | None":
    """Gives what a request asks to be added, if it does; see `Extras`."""
    token_ids, prompt = request.return_token_ids, request.prompt_logprobs is not None
    if not token_ids and not prompt:
        return None
    return Extras(tokenizer, prompts, token_ids, prompt, at_top)


class Extras:
    """Writes additions into the bodies that a shape has written."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        token_ids: bool,
        prompt_logprobs: bool,
        at_top: bool,
    ) -> None:
        """Prepares what is to be added.

        Args:
          tokenizer: Knows the tokens' text.
          prompts: Each choice's prompt.
          token_ids: Whether to add the ids of the prompt and of the answer.
          prompt_logprobs: Whether to add the prompt's log-probabilities.
          at_top: What concerns the prompt goes beside the choices, as chat
            completions have one prompt, not into each.
        """
        self._tokenizer, self._prompts, self._at_top = tokenizer, prompts, at_top
        self._token_ids, self._prompt_logprobs = token_ids, prompt_logprobs
        self._unsent: dict[int, list[int]] = {}
        self._begun: set[int] = set()

    def whole(self, body: dict[str, Any], answers: Sequence[Delta]) -> None:
        """Adds to a whole response."""
        for index, answer in enumerate(answers):
            choice = body["choices"][index]
            if self._token_ids:
                choice["token_ids"] = list(answer.token_ids)
            if index == 0 or not self._at_top:
                self._describe(body if self._at_top else choice, index, answer)

    def stream(self, chunks: list[dict[str, Any]], index: int, delta: Delta) -> None:
        """Adds to a delta's chunks; ids for which there is none wait for the next."""
        unsent = self._unsent.setdefault(index, [])
        unsent += delta.token_ids
        if not chunks:
            return
        if self._token_ids:
            chunks[-1]["choices"][0]["token_ids"] = list(unsent)
            unsent.clear()
        if index not in self._begun and (index == 0 or not self._at_top):
            self._begun.add(index)
            place = chunks[0] if self._at_top else chunks[0]["choices"][0]
            self._describe(place, index, delta)

    def _describe(self, place: dict[str, Any], index: int, delta: Delta) -> None:
        if self._token_ids:
            place["prompt_token_ids"] = list(self._prompts[index])
        if self._prompt_logprobs:
            place["prompt_logprobs"] = prompt_entries(self._tokenizer, delta.prompt)
