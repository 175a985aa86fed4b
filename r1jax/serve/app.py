"""The routes: from an HTTP request to a job, and from its deltas to a response."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import r1jax
from r1jax.errors import RequestError, TextError
from r1jax.serve import chat, completions, messages, openapi, responses, tokens, typed
from r1jax.serve.answering import stream, whole
from r1jax.serve.body import read_json
from r1jax.serve.errors import ApiError, bad_request, from_error
from r1jax.serve.gate import Gate, error_response
from r1jax.serve.generation import Admission, Choice, Generation, Limits
from r1jax.serve.job import Job, check_model
from r1jax.serve.log import RequestRecord
from r1jax.serve.metrics import Metrics
from r1jax.serve.page import Page
from r1jax.serve.profiler import Profiler
from r1jax.serve.response_store import ResponseStore
from r1jax.serve.stream import (
    ClientGone,
    EventStream,
    as_events,
    unless_gone,
    write_json,
)
from r1jax.serve.typed import TypedJob

if TYPE_CHECKING:
    from r1jax.llm import LLM

_Prepare = Callable[[dict[str, Any], "LLM", str], Job]
_PrepareTyped = Callable[[dict[str, Any], "LLM", str], TypedJob]
_Work = Callable[[dict[str, Any], "LLM", str], dict[str, Any]]
_ROOTS = ("/v1", "", "/beta", "/anthropic/v1")  # all but the first are DeepSeek's
POST = ["POST"]
KEPT = ["GET", "DELETE"]
_GONE = 499  # what nginx calls it; nobody reads the answer


@dataclass(frozen=True)
class Cors:
    """What pages of other sites may do, in the words of the CORS headers."""

    origins: Sequence[str]
    methods: Sequence[str] = ("*",)
    headers: Sequence[str] = ("*",)
    credentials: bool = False


@dataclass(frozen=True)
class ServeOptions:
    """How the server behaves towards its clients.

    Attributes:
      names: Names the model is served under; answers carry the one asked for.
      api_keys: Keys of which a client must send one; none lets everyone in.
      max_body_bytes: The longest request body.
      limits: How much may wait, and how long.
      keep_alive: Seconds of silence in a stream before a comment is sent; 0 for never.
      cors: What pages of other sites may do; None for nothing.
      profiler_dir: Where traces of the device are written; None for nowhere.
    """

    names: Sequence[str]
    api_keys: Sequence[str] = ()
    max_body_bytes: int = 16 * 2**20
    limits: Limits = field(default_factory=Limits)
    keep_alive: float = 15.0
    cors: Cors | None = None
    profiler_dir: str | None = None


def create_app(llm: "LLM", options: ServeOptions) -> Starlette:
    """Builds the application; its `state.admission` is for whoever shuts it down."""
    metrics = Metrics(llm.engine, options.names[0])
    admission = Admission(llm.engine, metrics, options.limits)
    handlers = _Handlers(llm, options, metrics, admission)
    app = Starlette(
        routes=handlers.routes(),
        middleware=[
            *_cors(options.cors),
            Middleware(Gate, metrics=metrics, api_keys=options.api_keys),
        ],
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


def _cors(cors: Cors | None) -> list[Middleware]:
    """Puts CORS outermost: a browser asks leave without a key."""
    if cors is None:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=cors.origins,
            allow_methods=cors.methods,
            allow_headers=cors.headers,
            allow_credentials=cors.credentials,
            expose_headers=["x-request-id"],
        )
    ]


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
        self._store = ResponseStore()

    def routes(self) -> list[Route]:
        """Lists the paths."""
        routes = [
            Route("/health", self.health),
            Route("/ping", self.health),
            Route("/metrics", self.metrics),
            Route("/version", self.version),
            Route("/openapi.json", self.openapi),
            *Page().routes(),
        ]
        if self._options.profiler_dir is not None:
            profiler = Profiler(self._options.profiler_dir)
            routes += [
                Route("/start_profile", profiler.start, methods=POST),
                Route("/stop_profile", profiler.stop, methods=POST),
            ]
        for root in _ROOTS:
            routes += [
                Route(f"{root}/models", self.models),
                Route(f"{root}/models/{{model:path}}", self.model),
                Route(f"{root}/chat/completions", self.chat_completions, methods=POST),
                Route(f"{root}/completions", self.completions, methods=POST),
                Route(f"{root}/responses", self.responses, methods=POST),
                Route(f"{root}/responses/{{id}}", self.response, methods=KEPT),
                Route(f"{root}/responses/{{id}}/cancel", self.cancel, methods=POST),
                Route(f"{root}/messages", self.messages, methods=POST),
                Route(f"{root}/messages/count_tokens", self.count, methods=POST),
                Route(f"{root}/tokenize", self.tokenize, methods=POST),
                Route(f"{root}/detokenize", self.detokenize, methods=POST),
            ]
        return routes

    async def chat_completions(self, request: Request) -> Response | EventStream:
        """Answers a conversation."""
        return await self._answer(request, chat.prepare)

    async def completions(self, request: Request) -> Response | EventStream:
        """Continues a text."""
        return await self._answer(request, completions.prepare)

    async def responses(self, request: Request) -> Response | EventStream:
        """Answers with a response, OpenAI's newer shape."""
        prepare = functools.partial(responses.prepare, store=self._store)
        return await self._answer_typed(request, prepare)

    async def response(self, request: Request) -> Response:
        """Shows a response that is kept, or forgets it."""
        name = request.path_params["id"]
        if request.method == "DELETE":
            self._store.delete(name)
            return _json({"id": name, "object": "response", "deleted": True})
        return _json(self._store.get(name).body)

    async def cancel(self, request: Request) -> Response:
        """Tells that a response that is kept has ended already."""
        self._store.get(request.path_params["id"])
        raise bad_request(
            "the response has ended already",
            "only responses in the background can be cancelled, and there are none",
            "close the connection to stop an answer that is being made",
        )

    async def messages(self, request: Request) -> Response | EventStream:
        """Answers with a message, Anthropic's shape."""
        return await self._answer_typed(request, messages.prepare)

    async def count(self, request: Request) -> Response:
        """Counts the tokens of a message's prompt."""
        return await self._work(request, messages.count)

    async def tokenize(self, request: Request) -> Response:
        """Turns text or messages into token ids."""
        return await self._work(request, tokens.tokenize)

    async def detokenize(self, request: Request) -> Response:
        """Turns token ids into text."""
        return await self._work(request, tokens.detokenize)

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
        if not self._llm.engine.compiled:
            return _json({"status": "compiling"}, 503)
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Shows the metrics to Prometheus."""
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return Response(self._metrics.text(), headers=headers)

    async def version(self, request: Request) -> Response:
        """Tells the version of r1jax."""
        return _json({"version": r1jax.__version__})

    async def openapi(self, request: Request) -> Response:
        """Describes all this."""
        keyed = bool(self._options.api_keys)
        return _json(await asyncio.to_thread(openapi.document, _ROOTS, keyed))

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "r1jax",
            "max_model_len": self._llm.engine.max_model_len,
            "reasoning": self._llm.reasoning,
        }

    async def _read(self, request: Request) -> tuple[dict[str, Any], "LLM", str]:
        """Reads a body, and the name of the model that it asks for."""
        body = await read_json(request, self._options.max_body_bytes)
        model = check_model(body.get("model"), self._options.names)
        record: RequestRecord = request.scope["record"]
        record.model = model
        return body, self._llm, model

    async def _work(self, request: Request, work: _Work) -> Response:
        """Answers what needs no generation."""
        return _json(await asyncio.to_thread(work, *await self._read(request)))

    async def _answer(
        self, request: Request, prepare: _Prepare
    ) -> Response | EventStream:
        """Reads, understands, submits and answers one request, whole or streamed."""
        # Templates and tokenizers may take a while; the event loop must not wait.
        job = await asyncio.to_thread(prepare, *await self._read(request))
        generation = self._admit(request, job.choices)
        if job.stream:
            events = as_events(stream(job, generation))
            return EventStream(events, self._options.keep_alive, generation.close)
        return await self._finish(request, whole(job, generation), generation)

    async def _answer_typed(
        self, request: Request, prepare: _PrepareTyped
    ) -> Response | EventStream:
        """Does the same for answers whose streams are typed events."""
        job = await asyncio.to_thread(prepare, *await self._read(request))
        generation = self._admit(request, [job.choice])
        if job.stream:
            events = typed.stream(job, generation)
            return EventStream(events, self._options.keep_alive, generation.close)
        return await self._finish(request, typed.whole(job, generation), generation)

    def _admit(self, request: Request, choices: Sequence[Choice]) -> Generation:
        generation = self._admission.admit(choices)
        record: RequestRecord = request.scope["record"]
        record.generation = generation
        return generation

    async def _finish(
        self,
        request: Request,
        work: Coroutine[Any, Any, dict[str, Any]],
        generation: Generation,
    ) -> Response:
        """Waits for a whole answer, unless the client hangs up."""
        try:
            return _json(await unless_gone(work, request.receive))
        finally:
            generation.close()


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(write_json(value), status, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError | TextError)
    api_error = error if isinstance(error, ApiError) else from_error(error)
    request.scope["record"].code = api_error.code
    return error_response(api_error, request.url.path)


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
        fix, code = "see /openapi.json for those that there are", None
    return error_response(
        ApiError(error.status_code, what, why, fix, code=code, headers=error.headers),
        path,
    )


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)
