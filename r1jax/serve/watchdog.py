"""Notices an engine that is stuck: requests wait, and no step ends."""

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1jax.engine.loop import Engine

_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 10.0  # for clients to be told, before the process is ended
_STUCK = 1  # the exit code


class Watchdog:
    """Looks now and then whether steps go on while sequences are owed an end.

    When they do not, it logs where every thread is, makes the engine fail, so that
    clients are told, and ends the process after a moment: a device that does not answer
    cannot be waited for, not even to close it.

    Attributes:
      barked: Whether it has found the engine stuck.
    """

    def __init__(
        self,
        engine: "Engine",
        owed: Callable[[], int],
        patience: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """Starts to watch, on a thread of its own.

        Args:
          engine: Whose `stats().steps` must grow.
          owed: Counts the sequences that wait for something.
          patience: Seconds that a step may take.
          leave: Ends the process with a code.
        """
        self._engine, self._owed, self._patience = engine, owed, patience
        self._leave = leave
        self._told = threading.Event()
        self.barked = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops watching, and gives up ending the process."""
        self._told.set()
        self._thread.join()

    def leave(self) -> None:
        """Ends the process at once, once all that can be told was told."""
        sys.stderr.flush()
        self._leave(_STUCK)

    def _watch(self) -> None:
        seen, since = -1, time.monotonic()
        while not self._told.wait(min(self._patience / 4, 1.0)):
            steps, now = self._engine.stats().steps, time.monotonic()
            if steps != seen or not self._owed() or self._engine.failure:
                seen, since = steps, now
            elif now - since > self._patience:
                self._bark()
                return

    def _bark(self) -> None:
        self.barked = True
        why = f"no step has ended for {self._patience:g} seconds (--step-timeout)"
        _LOG.critical("the engine is stuck: %s", why)
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        self._engine.fail(why)
        if not self._told.wait(_GRACE_SECONDS):
            self.leave()
