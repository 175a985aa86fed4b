"""The outermost layer: request ids, keys, the log, and errors that nobody caught."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r1jax.serve.errors import ApiError, anthropic_body, unexpected
from r1jax.serve.log import RequestRecord, log_request
from r1jax.serve.metrics import Metrics
from r1jax.serve.stream import write_json

# For probes, and for the page before its user has typed a key.
OPEN_PATHS = frozenset({"/health", "/ping", "/"})
OPEN_FOLDER = "/ui/"
MESSAGES = re.compile(r"(^|/)messages(/count_tokens)?$")  # Anthropic's paths
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GONE = 499  # nginx's number of a request whose client left before its answer
_PLAIN_ID = re.compile(r"[!-~]{1,128}")


def error_response(error: ApiError, path: str) -> Response:
    """Writes an error as the response to a request, in the shape of its endpoint."""
    anthropic = MESSAGES.search(path)
    return Response(
        write_json(anthropic_body(error) if anthropic else error.body()),
        error.status,
        error.headers,
        media_type="application/json",
    )


class Gate:
    """Gives each request an id, asks for a key, and answers for unexpected errors.

    When a request has been answered it is counted and logged, unless a probe sent it.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, api_keys: Sequence[str] = ()
    ) -> None:
        """Guards `app`; without keys everyone may pass."""
        self._app = app
        self._metrics = metrics
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        record = RequestRecord(request_id, scope["method"], scope["path"])
        scope["record"] = record
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            if not _is_open(scope["path"]) and not self._knows(headers):
                error = _unauthorized()
                record.code = error.code
                await error_response(error, scope["path"])(scope, receive, send_named)
            else:
                await self._app(scope, receive, send_named)
        except Exception as caught:  # the outer edge: nothing above can answer
            error = unexpected(caught, request_id)
            record.code = error.code
            if not status:
                await error_response(error, scope["path"])(scope, receive, send_named)
        finally:
            took = time.monotonic() - start
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.count_http(_handler(scope), method, status or _GONE, took)
            if not _is_open(scope["path"]):
                log_request(record, status or _GONE, took)

    def _knows(self, headers: Headers) -> bool:
        """Tells whether the key is one of ours, in a time that does not tell which."""
        if not self._digests:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("x-api-key", "")  # as Anthropic's clients send it
        given = _digest(key.strip().encode("latin-1"))
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches)


def _handler(scope: Scope) -> str:
    """Names the route that took a request; one name for all that none took.

    It is the route's template: clients must not make new series with what they ask.
    """
    if "endpoint" not in scope:
        return "none"
    took = (r for r in scope["app"].routes if r.matches(scope)[0] is not Match.NONE)
    template: str = next(took).path
    return template.replace(":path", "")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _request_id(given: str) -> str:
    """Keeps the client's id where it is harmless, else makes one."""
    return given if _PLAIN_ID.fullmatch(given) else secrets.token_hex(16)


def _unauthorized() -> ApiError:
    return ApiError(
        401,
        "the API key is missing or wrong",
        "this server was started with --api-key",
        "send the header 'Authorization: Bearer KEY', or 'x-api-key: KEY'",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
