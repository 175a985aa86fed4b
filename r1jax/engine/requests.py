"""The requests of an engine, for its own thread and for those that ask it."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from r1jax.engine.plans import Sequence
from r1jax.engine.types import Event
from r1jax.errors import RequestError

OnEvent = Callable[[Event], None]


class Requests:
    """Requests that have come, and those that the engine's thread has taken.

    Attributes:
      seeds: Of each request, by its number.
      failure: Why no step can run any more; None while all is well.
      closing: Whether the engine is to stop.
    """

    def __init__(self, seed: int | None) -> None:
        """Starts without any; `seed` makes those repeatable that have none."""
        self.seeds: dict[int, int] = {}
        self.failure: str | None = None
        self.closing = False
        self._new: list[tuple[Sequence, OnEvent]] = []
        self._taken: dict[int, tuple[Sequence, OnEvent]] = {}
        self._cancelled: list[int] = []
        self._changed = threading.Condition()
        self._last = 0
        self._draw = random.Random(seed)

    @property
    def new(self) -> int:
        """How many have not been taken yet."""
        return len(self._new)

    def add(self, sequence: Sequence, on_event: OnEvent) -> int:
        """Numbers a request and queues it.

        Raises:
          RequestError: The engine has failed or is closed.
        """
        with self._changed:
            if self.failure or self.closing:
                raise RequestError(
                    "the engine does not take requests",
                    self.failure or "it is shutting down",
                    "restart the server and look at its log",
                )
            self._last += 1
            sequence.id, own = self._last, sequence.sampling.seed
            self.seeds[self._last] = self._draw.getrandbits(64) if own is None else own
            self._new.append((sequence, on_event))
            self._changed.notify()
        return sequence.id

    def cancel(self, number: int) -> None:
        """Asks for a request's end; safe to repeat."""
        with self._changed:
            self._cancelled.append(number)
            self._changed.notify()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps requests out while something is changed that they depend on.

        Raises:
          RequestError: Some run or wait, or none can be taken any more.
        """
        with self._changed:
            running = len(self._taken) + len(self._new)
            if running or self.failure or self.closing:
                raise RequestError(
                    "the weights cannot be changed now",
                    self.failure
                    or (f"{running} requests use them" if running else "it has closed"),
                    "wait for their last events, or cancel them and wait",
                )
            yield

    def look(self) -> None:
        """Has the engine's thread look again: more is compiled than before."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Has the engine's thread stop."""
        with self._changed:
            self.closing = True
            self._changed.notify()

    def fail(self, reason: str) -> None:
        """Ends all requests with "error", from any thread; the first reason counts."""
        with self._changed:
            if self.failure or self.closing:
                return
            self.failure = reason
            self._changed.notify()
        for sequence, on_event in self._everything():
            on_event(Event(sequence.id, finish="error", error=reason))

    def take(
        self, ready: Callable[[Sequence], bool], wait: bool
    ) -> tuple[list[Sequence], list[Sequence]] | None:
        """Gives what has come since, and what was cancelled of what was taken.

        Args:
          ready: Whether a request can be served; others wait, unless cancelled.
          wait: Sleeps while there is nothing to do at all.

        Returns:
          None once the engine is to stop.
        """

        def due(new: tuple[Sequence, OnEvent]) -> bool:
            return ready(new[0]) or new[0].id in self._cancelled

        with self._changed:
            while wait and not (
                any(map(due, self._new))
                or self._cancelled
                or self.closing
                or self.failure
                or self._taken
            ):
                self._changed.wait()
            if self.closing or self.failure:
                return None
            coming = [new for new in self._new if due(new)]
            self._new = [new for new in self._new if not due(new)]
            for sequence, on_event in coming:
                self._taken[sequence.id] = sequence, on_event
            cancelled, self._cancelled = self._cancelled, []
        ended = [self._taken[n][0] for n in cancelled if n in self._taken]
        return [sequence for sequence, _ in coming], ended

    def tell(self, event: Event) -> None:
        """Hands a taken request its event."""
        self._taken[event.request_id][1](event)

    def forget(self, number: int) -> OnEvent:
        """Drops a taken request; returns who is to hear its last event."""
        with self._changed:
            del self.seeds[number]
            return self._taken.pop(number)[1]

    def abort(self) -> None:
        """Ends all that is left with "abort"."""
        for sequence, on_event in self._everything():
            on_event(Event(sequence.id, finish="abort"))

    def _everything(self) -> list[tuple[Sequence, OnEvent]]:
        with self._changed:
            return [*self._taken.values(), *self._new]
