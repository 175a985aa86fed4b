"""Server-sent events, and noticing that the client has gone."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from starlette.types import Receive, Scope, Send

from r1jax.serve.errors import ApiError, unexpected

DONE = "data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or a proxy in front would hold events back
]


def write_event(value: dict[str, Any]) -> str:
    """Writes one event."""
    return f"data: {write_json(value)}\n\n"


def write_typed_event(value: dict[str, Any]) -> str:
    """Writes one event under the name of its type."""
    return f"event: {value['type']}\n{write_event(value)}"


def write_json(value: object) -> str:
    """Writes compact JSON in plain Unicode."""
    return _ENCODER.encode(value)


class ClientGone(Exception):  # noqa: N818 (it is no error)
    """The client hung up before its answer was ready."""


class EventStream:
    """A response that sends events as they come.

    While none come it sends comments, so that nothing between client and server takes
    the connection for dead. Whatever ends it, `close` is called.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        keep_alive: float,
        close: Callable[[], None],
    ) -> None:
        """Takes the events; `keep_alive` is in seconds, 0 sends no comments."""
        self._events = events
        self._keep_alive = keep_alive
        self._close = close
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events until they end or the client hangs up."""
        try:
            await _first_of(self._write(send), _hung_up(receive), self._beat(send))
        finally:
            self._close()

    async def _write(self, send: Send) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            start = {"type": "http.response.start", "status": 200, "headers": _HEADERS}
            await send(start)
            async for event in self._events:
                await self._send(send, event, more=True)
            await self._send(send, "", more=False)

    async def _beat(self, send: Send) -> None:
        while self._keep_alive:
            idle = time.monotonic() - self._last
            if idle >= self._keep_alive:
                await self._send(send, ": keep-alive\n\n", more=True)
            else:
                await asyncio.sleep(self._keep_alive - idle)
        await asyncio.Event().wait()

    async def _send(self, send: Send, text: str, more: bool) -> None:
        self._last = time.monotonic()
        body = text.encode()
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def unless_gone(
    work: Coroutine[Any, Any, dict[str, Any]], receive: Receive
) -> dict[str, Any]:
    """Awaits `work`, and gives it up if the client hangs up first.

    Raises:
      ClientGone: Nobody waits for the answer any more.
    """
    result = await _first_of(work, _hung_up(receive))
    if result is None:
        raise ClientGone
    return result


async def as_events(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """Passes events on, and ends with one that says why if they break off."""
    try:
        async for piece in pieces:
            yield piece
    except ApiError as error:
        yield write_event(error.body())
    except Exception as error:  # the outer edge of a request that is half answered
        yield write_event(unexpected(error).body())


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*works: Coroutine[Any, Any, Any]) -> Any:
    """Gives the result of the first to end; the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
