"""Traces of the device, started and stopped over HTTP."""

import asyncio

import jax
from starlette.requests import Request
from starlette.responses import Response

from r1jax.serve.errors import bad_request


class Profiler:
    """The two endpoints; the trace is one that XProf and TensorBoard read."""

    def __init__(self, folder: str) -> None:
        """Takes where traces are written."""
        self._folder = folder
        self._runs = False
        self._one = asyncio.Lock()

    async def start(self, request: Request) -> Response:
        """Starts a trace.

        Raises:
          ApiError: 400, one runs already.
        """
        async with self._one:
            if self._runs:
                raise bad_request(
                    "a trace runs already", "", "POST /stop_profile first"
                )
            await asyncio.to_thread(jax.profiler.start_trace, self._folder)
            self._runs = True
        return Response(status_code=200)

    async def stop(self, request: Request) -> Response:
        """Stops the trace and writes it.

        Raises:
          ApiError: 400, none runs.
        """
        async with self._one:
            if not self._runs:
                raise bad_request("no trace runs", "", "POST /start_profile first")
            self._runs = False
            await asyncio.to_thread(jax.profiler.stop_trace)
        return Response(status_code=200)
