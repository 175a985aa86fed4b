"""The bridge to the engine: choices go in together, deltas come out as they are made.

The engine calls back on its own thread; its events reach the event loop by a mailbox.
Nothing here knows the shape of a request or of an answer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1jax.answer import AnswerBuilder, Delta
from r1jax.engine.guides import Guide
from r1jax.engine.types import Event, SamplingParams
from r1jax.serve import outages
from r1jax.serve.errors import ApiError, bad_request
from r1jax.serve.mailbox import Mailbox
from r1jax.serve.metrics import ChoiceTimer, Metrics

if TYPE_CHECKING:
    from r1jax.engine.loop import Engine

Deltas = list[tuple[int, Delta]]


@dataclass(frozen=True)
class Choice:
    """One sequence to generate by which rules, and how its events become words."""

    prompt: Sequence[int]
    sampling: SamplingParams
    builder: AnswerBuilder
    guide: Guide | None = None


@dataclass(frozen=True)
class Limits:
    """What requests may ask of a busy server; 0 seconds for as long as it takes.

    Attributes:
      max_queued: Sequences that may wait for their first token before new requests
        get status 503.
      max_queued_tokens: The same in tokens of their prompts; None for any number.
      queue_timeout: Seconds in which a first token must come.
      request_timeout: Seconds in which the whole answer must come.
    """

    max_queued: int = 1024
    max_queued_tokens: int | None = None
    queue_timeout: float = 0.0
    request_timeout: float = 0.0


class Admission:
    """Lets requests into the engine, while there is room and the server stays up.

    Attributes:
      limits: What is let in, and for how long.
      draining: Whether the server stops: nothing new is let in.
    """

    def __init__(self, engine: "Engine", metrics: Metrics, limits: Limits) -> None:
        """Starts with nothing running."""
        self._engine = engine
        self._metrics = metrics
        self.limits = limits
        self._open: set[Generation] = set()
        self._mailbox = Mailbox()
        self.draining = False

    @property
    def failure(self) -> str | None:
        """Why the engine stopped working, if it did."""
        return self._engine.failure

    @property
    def outstanding(self) -> int:
        """Counts the sequences that the engine still owes an end."""
        return self._mailbox.outstanding

    @property
    def busy(self) -> bool:
        """Whether some request still waits for an end, or for its client."""
        return bool(self._open)

    def admit(self, choices: Sequence[Choice]) -> "Generation":
        """Submits the choices of one request.

        Raises:
          ApiError: 503 where the server is full or about to stop, or the engine has
            failed.
          RequestError: The engine refuses the request.
        """
        if self.draining:
            raise outages.stopping()
        if self.failure is not None:
            raise outages.failed(self.failure)
        self._check_room()
        generation = Generation(
            choices, self._engine, self._mailbox, self._metrics, self._open.discard
        )
        self._open.add(generation)
        generation.submit(self.limits)
        return generation

    def abort(self) -> None:
        """Ends every request that still runs; their clients are told why."""
        reason = self.failure
        error = outages.stopping() if reason is None else outages.failed(reason)
        for generation in list(self._open):
            generation.end(error)

    def _check_room(self) -> None:
        most, most_tokens = self.limits.max_queued, self.limits.max_queued_tokens
        waiting = [tokens for each in self._open for tokens in each.queued()]
        if len(waiting) >= most:
            raise outages.overloaded(len(waiting), most, "sequences")
        if most_tokens is not None and sum(waiting) >= most_tokens:
            raise outages.overloaded(sum(waiting), most_tokens, "prompt tokens")


class Generation:
    """The sequences of one request: submitted, read and cancelled together.

    Attributes:
      timers: What is known of each choice's time and tokens.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        engine: "Engine",
        mailbox: Mailbox,
        metrics: Metrics,
        forget: Callable[["Generation"], None],
    ) -> None:
        """Prepares the sequences; `submit` starts them, `forget` hears of the end."""
        self._choices = choices
        self._engine = engine
        self._mailbox = mailbox
        self._forget = forget
        now = time.monotonic()
        self.timers = [ChoiceTimer(metrics, len(c.prompt), now) for c in choices]
        self._ready: Deltas = []
        self._sleeps_through = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._alarms: list[asyncio.TimerHandle] = []
        self._running: dict[int, int] = {}  # choice to the engine's request id

    def queued(self) -> list[int]:
        """Gives the prompt tokens of each sequence that waits for its first token."""
        timers = [self.timers[index] for index in self._running]
        return [timer.prompt_tokens for timer in timers if timer.waiting]

    def submit(self, limits: Limits) -> None:
        """Hands every choice to the engine, or none.

        Raises:
          RequestError: The engine refuses one.
        """
        try:
            for index, choice in enumerate(self._choices):
                put = self._mailbox.address(self, index)
                self._running[index] = self._engine.submit(
                    choice.prompt, choice.sampling, put, guide=choice.guide
                )
        except BaseException:
            self._mailbox.take_back()
            self.close()
            raise
        self._alarm(limits.request_timeout, self._late)
        self._alarm(limits.queue_timeout, self._not_begun)

    async def deltas(self, at_once: bool = False) -> AsyncGenerator[Deltas]:
        """Yields what has come, as (choice, delta)s, until every choice has finished.

        Args:
          at_once: Yields only once, when all has come.

        Raises:
          ApiError: 503 where the engine failed or the server stops, or no token came
            in time; 504 where the answer takes too long.
        """
        self._sleeps_through = at_once
        while self._running or self._ready or self._error:
            if self._running and self._error is None and (at_once or not self._ready):
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            ready, self._ready = self._ready, []
            if ready:
                yield ready
            if self._error is not None:
                raise self._error

    def receive(self, index: int, event: Event) -> None:
        """Takes an event of one choice, and turns it into words."""
        if index not in self._running or self._error is not None:
            return  # it came after a stop string, before the engine heard of it
        if event.finish == "abort":
            self._finish(index, "abort")
            self._break_off(outages.stopping())
        elif event.finish == "error":
            self._finish(index, "error")
            self._break_off(self._error_of(event.error or "it gave no reason"))
        else:
            try:
                self._ready.append((index, self._words(index, event)))
            except Exception as error:  # an edge: others' events are behind this one
                self._break_off(error)
            if not self._running or not self._sleeps_through:
                self._wake()

    def end(self, error: ApiError) -> None:
        """Makes `deltas` end with an error, unless all has come already."""
        if self._running:
            self._break_off(error)

    def close(self) -> None:
        """Cancels what still runs; may be called again."""
        for alarm in self._alarms:
            alarm.cancel()
        for index, request_id in list(self._running.items()):
            self._engine.cancel(request_id)
            self._finish(index, "abort")
        self._forget(self)

    def _words(self, index: int, event: Event) -> Delta:
        delta = self._choices[index].builder.push(event)
        self.timers[index].take(event, len(delta.token_ids))
        if delta.finish is not None:
            if event.finish is None:
                self._engine.cancel(self._running[index])
            self._finish(index, delta.finish)
        return delta

    def _error_of(self, reason: str) -> ApiError:
        """Makes the error of an engine that failed, or of what was asked alone."""
        if self._engine.failure is not None:
            return outages.failed(reason)
        return bad_request(
            "the answer cannot go on",
            reason,
            "ask for less of what restricts it",
            code="no_token_allowed",
        )

    def _break_off(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _finish(self, index: int, reason: str) -> None:
        del self._running[index]
        self.timers[index].finish(reason)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _alarm(self, seconds: float, ring: Callable[[float], None]) -> None:
        if seconds:
            loop = asyncio.get_running_loop()
            self._alarms.append(loop.call_later(seconds, ring, seconds))

    def _late(self, seconds: float) -> None:
        self.end(outages.took_too_long(seconds))

    def _not_begun(self, seconds: float) -> None:
        if all(timer.waiting for timer in self.timers):
            self.end(outages.waited_too_long(seconds))
