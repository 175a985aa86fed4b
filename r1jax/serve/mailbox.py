"""From the engine's thread to the event loop: all events of a step with one wake."""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable
from typing import Protocol

from r1jax.engine.types import Event


class Addressee(Protocol):
    """Who gets events; called on the loop's thread."""

    def receive(self, index: int, event: Event) -> None:
        """Takes an event of one of its sequences."""


class Mailbox:
    """Events that one thread hands out and another takes in.

    Waking an event loop costs more than an event does, so a loop that was woken and has
    not come yet is not woken again: it takes what has gathered.

    Attributes:
      outstanding: Sequences whose last event has not been delivered yet.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._letters: deque[tuple[Addressee, int, Event]] = deque()
        self._woken = False
        self.outstanding = 0

    def address(self, to: Addressee, index: int) -> Callable[[Event], None]:
        """Returns what the engine calls with each event of one sequence.

        To be called on the loop's thread. If the engine refuses the sequence, say so
        with `take_back`.
        """
        self.outstanding += 1
        return functools.partial(self._put, asyncio.get_running_loop(), to, index)

    def take_back(self) -> None:
        """Forgets a sequence that the engine has not taken."""
        self.outstanding -= 1

    def _put(
        self, loop: asyncio.AbstractEventLoop, to: Addressee, index: int, event: Event
    ) -> None:
        """Takes an event on the engine's thread."""
        self._letters.append((to, index, event))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody reads
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Hands over what has gathered, on the loop's thread."""
        self._woken = False  # first, so that what comes from now on wakes us again
        while self._letters:
            to, index, event = self._letters.popleft()
            self.outstanding -= event.finish is not None
            to.receive(index, event)
