"""The outermost layer of the application: request ids, keys, and what nobody caught."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r1jax.serve.errors import ApiError, unexpected
from r1jax.serve.stream import write_json

# For probes, and for the page before its user has typed a key.
OPEN_PATHS = frozenset({"/health", "/ping", "/"})
OPEN_FOLDER = "/ui/"
_PLAIN_ID = re.compile(r"[!-~]{1,128}")


def error_response(error: ApiError) -> Response:
    """Writes an error as the response to a request."""
    return Response(
        write_json(error.body()),
        error.status,
        error.headers,
        media_type="application/json",
    )


class Gate:
    """Gives each request an id, asks for a key, and answers for unexpected errors."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str] = ()) -> None:
        """Guards `app`; without keys everyone may pass."""
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            if not _is_open(scope["path"]) and not self._knows(headers):
                await error_response(_unauthorized())(scope, receive, send_named)
            else:
                await self._app(scope, receive, send_named)
        except Exception as error:  # the outer edge: nothing above can answer
            response = error_response(unexpected(error))
            if not started:
                await response(scope, receive, send_named)

    def _knows(self, headers: Headers) -> bool:
        """Tells whether the key is one of ours, in a time that does not tell which."""
        if not self._digests:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip().encode("latin-1"))
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


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
        "send the header 'Authorization: Bearer KEY'",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
