"""Reads request bodies: bounded, UTF-8, strict JSON, an object."""

import asyncio
import contextlib
import json
import re
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from r1jax.serve.errors import ApiError, bad_request

_BODY_SECONDS = 60.0  # a body that takes longer is given up
_DRAIN_SECONDS = 5.0  # how long the rest of a refused body is still read
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Reads the body as one JSON object.

    Raises:
        ApiError: 408 too slow, 413 longer than `limit` bytes, 415 not JSON by its
            content type, 400 not UTF-8 or not strict JSON.
    """
    _check_content_type(request)
    try:
        data = await asyncio.wait_for(_read(request, limit), _BODY_SECONDS)
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {_BODY_SECONDS:.0f} seconds",
            "a connection may not be held open by an unfinished request",
            "send the body at once",
            headers={"Connection": "close"},
        ) from None
    return await asyncio.to_thread(parse_json, data)


def parse_json(data: bytes) -> dict[str, Any]:
    """Parses strict JSON: no NaN, no lone surrogates, no endless nesting."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(data.decode("utf-8")):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _malformed("half of a surrogate pair is not a character") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except ValueError as error:
        raise _malformed(str(error)) from None
    if not isinstance(value, dict):
        raise _malformed("the outermost value is not a JSON object")
    return value


def _malformed(why: str) -> ApiError:
    fix = 'send one JSON object in UTF-8, such as {"model": "...", ...}'
    return bad_request("the body cannot be read as JSON", why, fix, code="invalid_json")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_content_type(request: Request) -> None:
    kind = request.headers.get("content-type", "application/json")
    kind = kind.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return
    raise ApiError(
        415,
        f"the content type is {kind[:80]!r}",
        "only JSON is understood here",
        "send the header 'Content-Type: application/json'",
        code="unsupported_media_type",
    )


async def _read(request: Request, limit: int) -> bytes:
    """Collects the body; one that is too long is read off before it is refused."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        await _drain(request)
        raise _too_long(limit)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            await _drain(request)
            raise _too_long(limit)
    return bytes(data)


async def _drain(request: Request) -> None:
    """Reads on for a while: a peer that is still sending may miss an early answer."""
    if "expect" in request.headers:
        return  # the peer waits for leave to send, and will not get it
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await request.receive()).get("more_body", False):
                pass


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is longer than {limit} bytes",
        "the server bounds what one request may occupy",
        "send less, or start the server with a larger --max-body-bytes",
        code="request_too_large",
        headers={"Connection": "close"},
    )
