"""From an engine's events to words: the text of one answer, piece by piece.

One `AnswerBuilder` serves one choice. It decodes tokens, looks for stop strings, parts
thinking from answer and keeps the log-probabilities. Whoever streams sends each
`Delta`; whoever wants the whole answer joins them. It knows neither HTTP nor threads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from r1jax.engine.types import Event, PromptLogprob
from r1jax.text.reasoning import ReasoningSplitter
from r1jax.text.stops import StopStrings
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tool_calls import ToolCallParser, ToolDelta


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of one generated token, and of its best alternatives.

    `offset` is the number of characters of text in front of the token; `reasoning` says
    that the token belongs to the thinking part.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int
    reasoning: bool


@dataclass(frozen=True)
class Delta:
    """What one event added to an answer. `finish` is set on the last one only.

    `stop` comes with it where a stop string or a token of the request's own ended the
    answer: the string or the token's id. `cached_tokens` and `prompt` come with the
    first event, and are the engine's.
    """

    reasoning: str = ""
    content: str = ""
    token_ids: tuple[int, ...] = ()
    reasoning_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    tool_calls: tuple[ToolDelta, ...] = ()
    stop: str | int | None = None
    cached_tokens: int = 0
    prompt: tuple[PromptLogprob, ...] = ()


class _Failing(Protocol):
    """A guide that may have to give up."""

    @property
    def failure(self) -> str | None:
        """Why it did, or None."""


class AnswerBuilder:
    """Turns the events of one sequence into deltas of text.

    A stop string that is found gives a delta with finish "stop"; the caller then
    cancels the sequence in the engine. Stop strings are looked for in the whole text,
    thinking and tool calls included, so that `</think>` itself may be one. An answer
    that called a tool and stopped finishes with "tool_calls".
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        thinking: bool | None = None,
        include_stop: bool = False,
        min_tokens: int = 0,
        tools: ToolCallParser | None = None,
        guide: _Failing | None = None,
        skip_special: bool = True,
    ) -> None:
        """Starts an answer.

        Args:
            tokenizer: gives the incremental decoder.
            stops: strings that end the answer and are not part of it.
            thinking: True where the prompt ended in an opened `<think>`, False where
                the answer starts outside, None where text is not to be parted at all.
            include_stop: keeps the stop string or stop token in the text.
            min_tokens: stop strings are not looked for in the text of this many tokens.
            tools: parts tool calls from the answer.
            guide: held the answer to a form, if anything did; should it have failed,
                the answer was cut, and finishes with "length".
            skip_special: leaves control tokens out of the text.
        """
        self._detokenizer = tokenizer.detokenizer(skip_special, continues=True)
        self._eos_ids = tokenizer.eos_ids
        self._stops = StopStrings(stops)
        self._splitter = None if thinking is None else ReasoningSplitter(thinking)
        self._include_stop = include_stop
        self._unstopped = min_tokens  # tokens still to come before stop strings count
        self._tools, self._guide = tools, guide
        self._length = 0  # characters decoded so far
        self._finished = False

    def push(self, event: Event) -> Delta:
        """Takes the next event; gives an empty delta once the answer has ended."""
        if self._finished:
            return Delta()
        offset = self._length
        thought_before = self._is_reasoning()
        text, hit = self._until_stop(self._decode(event), last=event.finish is not None)
        finish = "stop" if hit else event.finish
        reasoning, content = self._part(text, last=finish is not None)
        content, calls = self._called(content, last=finish is not None)
        finish = self._reason(finish)
        self._finished = finish is not None
        # The closing tag's own token still belongs to the thinking part.
        is_thought = thought_before or self._is_reasoning()
        token_ids = () if event.token is None else (event.token,)
        return Delta(
            reasoning,
            content,
            token_ids,
            len(token_ids) if is_thought else 0,
            _logprobs(event, offset, is_thought),
            finish,
            calls,
            stop=self._stops.matched or self._stop_token(event),
            cached_tokens=event.cached_tokens,
            prompt=event.prompt,
        )

    def _stop_token(self, event: Event) -> int | None:
        """Gives the token that ended the answer, if not one of the model's own did."""
        own = event.finish != "stop" or event.token in self._eos_ids
        return None if own else event.token

    def _decode(self, event: Event) -> str:
        """Gives the characters that the event completes."""
        text = ""
        ends_on_token = event.finish == "stop" and not self._include_stop
        if event.token is not None and not ends_on_token:
            text = self._detokenizer.push(event.token)
        if event.finish:
            text += self._detokenizer.flush()
        self._length += len(text)
        return text

    def _until_stop(self, text: str, last: bool) -> tuple[str, bool]:
        """Gives the text that is safe to show, and whether a stop string ended it."""
        if self._unstopped > 0:
            self._unstopped -= 1
            return text, False
        emit, _ = self._stops.push(text)
        if last:
            emit += self._stops.flush()
        matched = self._stops.matched
        if matched is not None and self._include_stop:
            emit += matched
        return emit, matched is not None

    def _part(self, text: str, last: bool) -> tuple[str, str]:
        """Parts text into thinking and answer."""
        if self._splitter is None:
            return "", text
        reasoning, content = self._splitter.push(text)
        if last:
            more_reasoning, more_content = self._splitter.flush()
            reasoning, content = reasoning + more_reasoning, content + more_content
        return reasoning, content

    def _called(self, text: str, last: bool) -> tuple[str, tuple[ToolDelta, ...]]:
        """Parts tool calls from the answer."""
        if self._tools is None:
            return text, ()
        content, calls = self._tools.push(text)
        if last:
            more_content, more_calls = self._tools.flush()
            content, calls = content + more_content, calls + more_calls
        return content, calls

    def _reason(self, finish: str | None) -> str | None:
        """Gives the reason to finish, as far as words decide it."""
        if self._tools is not None and self._tools.finished:
            return "tool_calls"
        if finish == "stop" and self._guide is not None and self._guide.failure:
            return "length"
        if finish == "stop" and self._tools is not None and self._tools.count:
            return "tool_calls"
        return finish

    def _is_reasoning(self) -> bool:
        return self._splitter is not None and self._splitter.is_reasoning


def _logprobs(event: Event, offset: int, is_thought: bool) -> tuple[TokenLogprob, ...]:
    if event.token is None or event.logprob is None:
        return ()
    top = event.top_logprobs
    return (TokenLogprob(event.token, event.logprob, top, offset, is_thought),)


def join(deltas: Iterable[Delta]) -> Delta:
    """Joins the deltas of one answer into the whole of it."""
    parts = list(deltas)
    calls: dict[int, ToolDelta] = {}
    for piece in (piece for part in parts for piece in part.tool_calls):
        call = calls.get(piece.index, ToolDelta(piece.index))
        calls[piece.index] = ToolDelta(
            piece.index,
            call.id or piece.id,
            call.name if call.name is not None else piece.name,
            call.arguments + piece.arguments,
        )
    return Delta(
        "".join(part.reasoning for part in parts),
        "".join(part.content for part in parts),
        tuple(token for part in parts for token in part.token_ids),
        sum(part.reasoning_tokens for part in parts),
        tuple(entry for part in parts for entry in part.logprobs),
        next((part.finish for part in parts if part.finish), None),
        tuple(calls.values()),
        stop=next((part.stop for part in parts if part.stop is not None), None),
        cached_tokens=sum(part.cached_tokens for part in parts),
        prompt=tuple(entry for part in parts for entry in part.prompt),
    )
