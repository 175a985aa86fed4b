"""Keeps finished responses for a while, so that a conversation can go on from them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from r1jax.serve.errors import ApiError
from r1jax.serve.stream import write_json


@dataclass(frozen=True)
class Stored:
    """A finished response, and the conversation that it ends, as chat messages."""

    body: dict[str, Any]
    messages: list[dict[str, Any]]


class ResponseStore:
    """A bounded store in memory: what was used longest ago goes first.

    Requests are understood on threads of their own, so any thread may ask.
    """

    def __init__(self, count: int = 1000, size: int = 128 * 2**20) -> None:
        """Keeps at most `count` responses of together `size` bytes."""
        self._count, self._size = count, size
        self._kept: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._used = 0
        self._lock = threading.RLock()

    def put(self, stored: Stored) -> None:
        """Keeps a response, and forgets old ones where there is no room."""
        size = len(write_json([stored.body, stored.messages]))
        with self._lock:
            self._kept[stored.body["id"]] = stored, size
            self._used += size
            while len(self._kept) > self._count or self._used > self._size:
                _, (_, freed) = self._kept.popitem(last=False)
                self._used -= freed

    def get(self, response_id: str, param: str | None = None) -> Stored:
        """Finds a response.

        Raises:
          ApiError: 404, it was never kept, or is not kept any more.
        """
        with self._lock:
            found = self._kept.get(response_id)
            if found is not None:
                self._kept.move_to_end(response_id)
        if found is None:
            raise ApiError(
                404,
                f"there is no response '{response_id[:80]}'",
                f"the last {self._count} are kept, in memory, unless 'store' was false",
                "send the conversation as 'input'",
                param=param,
                code="response_not_found",
            )
        return found[0]

    def delete(self, response_id: str) -> None:
        """Forgets a response.

        Raises:
          ApiError: 404, it is not there.
        """
        with self._lock:
            self.get(response_id)
            self._used -= self._kept.pop(response_id)[1]
