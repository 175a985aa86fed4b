"""The bridge to the engine: choices go in together, deltas come out as they are made.

The engine calls back on its own thread; each event is handed to the event loop, which
sleeps until then. Nothing here knows the shape of a request or of an answer.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1jax.answer import AnswerBuilder, Delta
from r1jax.engine.guides import Guide
from r1jax.engine.types import Event, SamplingParams
from r1jax.serve.errors import ApiError
from r1jax.serve.metrics import ChoiceTimer, Metrics

if TYPE_CHECKING:
    from r1jax.engine.loop import Engine


@dataclass(frozen=True)
class Choice:
    """One sequence to generate by which rules, and how its events become words."""

    prompt: Sequence[int]
    sampling: SamplingParams
    builder: AnswerBuilder
    guide: Guide | None = None


class Admission:
    """Lets requests into the engine, while there is room and the server stays up."""

    def __init__(self, engine: "Engine", metrics: Metrics, max_queued: int) -> None:
        """Refuses new requests once `max_queued` sequences wait for a first token."""
        self._engine = engine
        self._metrics = metrics
        self._max_queued = max_queued
        self._open: set[Generation] = set()
        self.draining = False

    @property
    def failure(self) -> str | None:
        """Why the engine stopped working, if it did."""
        return self._engine.failure

    def admit(self, choices: Sequence[Choice]) -> "Generation":
        """Submits the choices of one request.

        Raises:
          ApiError: 503 where the server is full or about to stop, or the engine has
            failed.
          RequestError: The engine refuses the request.
        """
        if self.draining:
            raise stopping()
        if self.failure is not None:
            raise failed(self.failure)
        queued = sum(generation.queued for generation in self._open)
        if queued >= self._max_queued:
            raise ApiError(
                503,
                f"{queued} sequences are waiting already",
                f"the server lets {self._max_queued} wait",
                "try again later",
                code="overloaded",
                headers={"Retry-After": "2"},
            )
        generation = Generation(self, self._engine, self._metrics, choices)
        self._open.add(generation)
        generation.submit()
        return generation

    def abort(self) -> None:
        """Ends every request that still runs; their clients are told why."""
        for generation in list(self._open):
            generation.abort()

    def forget(self, generation: "Generation") -> None:
        """Stops counting a request that has ended."""
        self._open.discard(generation)


class Generation:
    """The sequences of one request: submitted, read and cancelled together."""

    def __init__(
        self,
        admission: Admission,
        engine: "Engine",
        metrics: Metrics,
        choices: Sequence[Choice],
    ) -> None:
        """Prepares the sequences; `submit` starts them."""
        self._admission = admission
        self._engine = engine
        self._choices = choices
        self._timers = [ChoiceTimer(metrics, len(c.prompt)) for c in choices]
        self._events: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._running: dict[int, int] = {}  # choice to the engine's request id

    @property
    def queued(self) -> int:
        """Counts the sequences that wait for their first token."""
        return sum(self._timers[index].waiting for index in self._running)

    def submit(self) -> None:
        """Hands every choice to the engine, or none.

        Raises:
          RequestError: The engine refuses one.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for index, choice in enumerate(self._choices):
                hand_over = functools.partial(self._hand_over, loop, index)
                rules = {} if choice.guide is None else {"guide": choice.guide}
                self._running[index] = self._engine.submit(
                    choice.prompt, choice.sampling, hand_over, **rules
                )
            undo.pop_all()

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta]]:
        """Yields (choice, delta) until every choice has finished.

        Raises:
          ApiError: 503 where the engine failed or the server stops.
        """
        while self._running:
            item = await self._events.get()
            if item is None:
                raise stopping()
            index, event = item
            if index not in self._running:
                continue  # came after a stop string, before the engine heard of it
            if event.finish == "abort":
                raise stopping()
            if event.finish == "error":
                self._finish(index, "error")
                raise failed(event.error or "it gave no reason")
            delta = self._choices[index].builder.push(event)
            self._timers[index].token(len(delta.token_ids))
            if delta.finish is not None:
                if event.finish is None:
                    self._engine.cancel(self._running[index])
                self._finish(index, delta.finish)
            yield index, delta

    def abort(self) -> None:
        """Makes `deltas` end with the error of a server that stops."""
        self._events.put_nowait(None)

    def close(self) -> None:
        """Cancels what still runs; may be called again."""
        for index, request_id in list(self._running.items()):
            self._engine.cancel(request_id)
            self._finish(index, "abort")
        self._admission.forget(self)

    def _finish(self, index: int, reason: str) -> None:
        del self._running[index]
        self._timers[index].finish(reason)

    def _hand_over(
        self, loop: asyncio.AbstractEventLoop, index: int, event: Event
    ) -> None:
        """Takes an event on the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
            loop.call_soon_threadsafe(self._receive, index, event)

    def _receive(self, index: int, event: Event) -> None:
        """Takes the event on the loop's thread."""
        self._events.put_nowait((index, event))


def stopping() -> ApiError:
    """Makes the error of a server that is about to stop."""
    return ApiError(
        503,
        "the server is shutting down",
        "it was asked to stop",
        "try again later, or another server",
        code="shutting_down",
        headers={"Retry-After": "5"},
    )


def failed(reason: str) -> ApiError:
    """Makes the error of an engine that failed: this server ends, another may serve."""
    return ApiError(
        503,
        "the engine failed",
        reason,
        "try again later, or another server; this one's log says more",
        code="engine_error",
        headers={"Retry-After": "5"},
    )
