"""The routes: from an HTTP request to a job, and from its deltas to a response."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import r1jax
from r1jax.answer import Delta, join
from r1jax.errors import RequestError, TextError
from r1jax.serve import chat, completions
from r1jax.serve.body import read_json
from r1jax.serve.errors import ApiError, bad_request, from_error
from r1jax.serve.gate import Gate, error_response
from r1jax.serve.generation import Admission, Generation
from r1jax.serve.job import Job, Usage, check_model
from r1jax.serve.metrics import Metrics
from r1jax.serve.page import Page
from r1jax.serve.stream import (
    DONE,
    ClientGone,
    EventStream,
    as_events,
    unless_gone,
    write_event,
    write_json,
)

if TYPE_CHECKING:
    from r1jax.llm import LLM

_Prepare = Callable[[dict[str, Any], "LLM", str], Job]
POST = ["POST"]
_GONE = 499  # what nginx calls it; nobody reads the answer


@dataclass(frozen=True)
class ServeOptions:
    """How the server behaves towards its clients.

    Attributes:
      names: Names the model is served under; answers carry the one asked for.
      api_keys: Keys of which a client must send one; none lets everyone in.
      max_body_bytes: The longest request body.
      max_queued: Sequences that may wait for their first token before new requests
        get status 503.
      keep_alive: Seconds of silence in a stream before a comment is sent; 0 for never.
    """

    names: Sequence[str]
    api_keys: Sequence[str] = ()
    max_body_bytes: int = 16 * 2**20
    max_queued: int = 1024
    keep_alive: float = 15.0


def create_app(llm: "LLM", options: ServeOptions) -> Starlette:
    """Builds the application; its `state.admission` is for whoever shuts it down."""
    metrics = Metrics(llm.engine, options.names[0])
    admission = Admission(llm.engine, metrics, options.max_queued)
    handlers = _Handlers(llm, options, metrics, admission)
    app = Starlette(
        routes=handlers.routes(),
        middleware=[Middleware(Gate, api_keys=options.api_keys)],
        exception_handlers={
            ApiError: _answer_error,
            RequestError: _answer_error,
            TextError: _answer_error,
            HTTPException: _answer_http_error,
            ClientGone: _answer_nobody,
            ClientDisconnect: _answer_nobody,
        },
    )
    app.router.redirect_slashes = False
    app.state.admission = admission
    return app


class _Handlers:
    """The endpoints, and what they share."""

    def __init__(
        self,
        llm: "LLM",
        options: ServeOptions,
        metrics: Metrics,
        admission: Admission,
    ) -> None:
        self._llm = llm
        self._options = options
        self._metrics = metrics
        self._admission = admission
        self._created = int(time.time())

    def routes(self) -> list[Route]:
        """Lists the paths; those without /v1 are DeepSeek's."""
        routes = [
            Route("/health", self.health),
            Route("/ping", self.health),
            Route("/metrics", self.metrics),
            Route("/version", self.version),
            *Page().routes(),
        ]
        for root in ("/v1", ""):
            routes += [
                Route(f"{root}/models", self.models),
                Route(f"{root}/models/{{model:path}}", self.model),
                Route(f"{root}/chat/completions", self.chat_completions, methods=POST),
                Route(f"{root}/completions", self.completions, methods=POST),
            ]
        return routes

    async def chat_completions(self, request: Request) -> Response | EventStream:
        """Answers a conversation."""
        return await self._answer(request, chat.prepare)

    async def completions(self, request: Request) -> Response | EventStream:
        """Continues a text."""
        return await self._answer(request, completions.prepare)

    async def models(self, request: Request) -> Response:
        """Lists the names of the model."""
        data = [self._card(name) for name in self._options.names]
        return _json({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """Describes the model under one name."""
        name = check_model(request.path_params["model"], self._options.names)
        return _json(self._card(name))

    async def health(self, request: Request) -> Response:
        """Tells a probe whether new requests would be served."""
        if self._admission.draining:
            return _json({"status": "stopping"}, 503)
        if self._admission.failure is not None:
            return _json({"status": "failed"}, 503)
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Shows the metrics to Prometheus."""
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return Response(self._metrics.text(), headers=headers)

    async def version(self, request: Request) -> Response:
        """Tells the version of r1jax."""
        return _json({"version": r1jax.__version__})

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "r1jax",
            "max_model_len": self._llm.engine.max_model_len,
            "reasoning": self._llm.reasoning,
        }

    async def _answer(
        self, request: Request, prepare: _Prepare
    ) -> Response | EventStream:
        """Reads, understands, submits and answers one request, whole or streamed."""
        body = await read_json(request, self._options.max_body_bytes)
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise bad_request("'model' is not a string", param="model")
        model = check_model(model, self._options.names)
        # Templates and tokenizers may take a while; the event loop must not wait.
        job = await asyncio.to_thread(prepare, body, self._llm, model)
        generation = self._admission.admit(job.choices)
        if job.stream:
            events = as_events(_stream(job, generation))
            return EventStream(events, self._options.keep_alive, generation.close)
        try:
            return _json(await unless_gone(_whole(job, generation), request.receive))
        finally:
            generation.close()


async def _whole(job: Job, generation: Generation) -> dict[str, Any]:
    """Collects the deltas of every choice into one response."""
    usage = Usage(job.prompt_tokens)
    parts: list[list[Delta]] = [[] for _ in job.choices]
    async for index, delta in generation.deltas():
        usage.add(delta)
        parts[index].append(delta)
    return job.shape.whole([join(part) for part in parts]) | {"usage": usage.body()}


async def _stream(job: Job, generation: Generation) -> AsyncGenerator[str]:
    """Writes every delta as it comes; usage last, or with each chunk, where wanted."""
    usage = Usage(job.prompt_tokens)
    options = job.stream_options
    counted = options is not None and options.include_usage
    always = counted and options is not None and options.continuous_usage_stats
    async with contextlib.aclosing(generation.deltas()) as deltas:
        async for index, delta in deltas:
            usage.add(delta)
            for chunk in job.shape.chunks(index, delta):
                if counted:
                    chunk["usage"] = usage.body() if always else None
                yield write_event(chunk)
    if counted:
        yield write_event(job.shape.usage_chunk() | {"usage": usage.body()})
    yield DONE


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(write_json(value), status, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError | TextError)
    api_error = error if isinstance(error, ApiError) else from_error(error)
    return error_response(api_error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answers for the router: no such path, or not this method."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        what, why, fix = f"{method} {path} is not allowed", "", f"use {allowed}"
        code = "method_not_allowed"
    else:
        what, why = f"there is nothing at {path}", "no endpoint has this path"
        fix, code = "see /v1/models, /v1/chat/completions and /v1/completions", None
    return error_response(
        ApiError(error.status_code, what, why, fix, code=code, headers=error.headers)
    )


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)
