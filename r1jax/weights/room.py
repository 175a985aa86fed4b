"""Host memory that threads share: a budget, and arrays that are used again."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Room:
    """So many bytes may be in work at once; one thing that is larger goes alone."""

    def __init__(self, nbytes: int) -> None:
        """Opens the budget."""
        self._nbytes, self._held, self._things = nbytes, 0, 0
        self._changed = threading.Condition()
        self.failure: BaseException | None = None

    def enter(self, nbytes: int) -> None:
        """Waits for room and takes it.

        Raises:
          BaseException: What `fail` was told.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._held
                    or self._held + nbytes <= self._nbytes
                    or self.failure
                )
            )
            self._check()
            self._held += nbytes
            self._things += 1

    def leave(self, nbytes: int) -> None:
        """Gives room back."""
        with self._changed:
            self._held -= nbytes
            self._things -= 1
            self._changed.notify_all()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Takes room for a while."""
        self.enter(nbytes)
        try:
            yield
        finally:
            self.leave(nbytes)

    def fail(self, failure: BaseException) -> None:
        """Ends all waiting with an error; the first one counts."""
        with self._changed:
            self.failure = self.failure or failure
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until nothing is in work.

        Raises:
          BaseException: What `fail` was told.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._things or self.failure)
            self._check()

    def _check(self) -> None:
        if self.failure:
            raise self.failure


class Spares:
    """Arrays to be used again: fresh memory costs as much as filling it.

    Only arrays of one size are kept, those that were asked for last.
    """

    def __init__(self) -> None:
        """Keeps nothing yet."""
        self._size, self._kept = 0, list[np.ndarray]()
        self._guard = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Returns an array with any contents."""
        size = math.prod(shape) * dtype.itemsize
        with self._guard:
            if size != self._size:
                self._size = size
                self._kept.clear()
            raw = self._kept.pop() if self._kept else np.empty(size, np.uint8)
        return raw.view(dtype).reshape(shape)

    def give(self, array: np.ndarray) -> None:
        """Takes an array back that nobody uses any more."""
        with self._guard:
            if array.nbytes == self._size:
                self._kept.append(array.reshape(-1).view(np.uint8))
