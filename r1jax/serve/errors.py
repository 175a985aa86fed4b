"""The one error of the HTTP side, and how other errors become it."""

import difflib
import logging
import re
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from r1jax.errors import R1jaxError, RequestError

_LOG = logging.getLogger(__name__)

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(RequestError):
    """An error with the HTTP status it is answered with.

    Its three parts become OpenAI's error object: `{"error": {"message", "type",
    "param", "code"}}`.
    """

    def __init__(
        self,
        status: int,
        what: str,
        why: str = "",
        fix: str = "",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keeps the parts; `param` names the request's field at fault."""
        super().__init__(what, why, fix)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Builds OpenAI's error object."""
        client = self.status < 500
        return {
            "error": {
                "message": _one_line(self),
                "type": "invalid_request_error" if client else "server_error",
                "param": self.param,
                "code": self.code,
            }
        }


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """Builds Anthropic's error object."""
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, kind)
    return {"type": "error", "error": {"type": kind, "message": _one_line(error)}}


def bad_request(
    what: str,
    why: str = "",
    fix: str = "",
    param: str | None = None,
    code: str | None = None,
) -> ApiError:
    """Makes the error for a request that is wrong in itself (status 400)."""
    return ApiError(400, what, why, fix, param=param, code=code)


def from_error(error: R1jaxError) -> ApiError:
    """Turns an error of the lower floors, caused by this request, into status 400."""
    return bad_request(error.what, error.why, error.fix)


def unexpected(error: Exception, request_id: str = "") -> ApiError:
    """Logs an error of our own making, and makes what its client is told."""
    fields = {"request_id": request_id} if request_id else {}
    _LOG.error(
        "a request failed unexpectedly", exc_info=error, extra={"fields": fields}
    )
    return ApiError(
        500,
        "the server failed at this request",
        "it met an error of its own",
        "try again; the server's log says more",
        code="internal_error",
    )


def from_validation(error: ValidationError, names: Collection[str]) -> ApiError:
    """Turns pydantic's first complaint into ours; `names` are the known parameters."""
    first = error.errors(include_url=False)[0]
    param = _path(first["loc"])
    if first["type"] == "missing":
        return missing(param)
    if first["type"] == "extra_forbidden":
        return unknown_parameter(param, names if len(first["loc"]) == 1 else ())
    reason = re.sub("dictionary or instance of .*", "JSON object", first["msg"])
    return bad_request(
        f"'{param}' is {_shown(first['input'])}",
        reason[:1].lower() + reason[1:],
        "send a value that fits",
        param,
        "invalid_value",
    )


def missing(
    param: str, why: str = "the request cannot be understood without it"
) -> ApiError:
    """Makes the error for a parameter that is not there."""
    code = "missing_required_parameter"
    return bad_request(f"missing '{param}'", why, f"send '{param}'", param, code)


def unknown_parameter(name: str, names: Collection[str]) -> ApiError:
    """Makes the error for a parameter nobody knows, with the nearest one known."""
    shown = name if len(name) <= 80 else name[:77] + "..."
    near = difflib.get_close_matches(shown, names, n=1)
    return bad_request(
        f"unknown parameter '{shown}'",
        "a parameter accepted and then ignored would mislead",
        f"did you mean '{near[0]}'?" if near else "leave it out",
        shown,
        "unknown_parameter",
    )


def _path(location: tuple[int | str, ...]) -> str:
    """Writes a place the way OpenAI does: `messages[0].content`."""
    dotted = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return dotted.lstrip(".")


def _shown(value: object) -> str:
    """Shows the beginning of a JSON value."""
    literals = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return literals[value]
    return reprlib.repr(value)


def _one_line(error: R1jaxError) -> str:
    """Writes what, why and fix as sentences of one line."""
    parts = [error.what]
    if error.why:
        parts.append(f"Why: {error.why}")
    if error.fix:
        parts.append(f"Fix: {error.fix}")
    text = ". ".join(re.sub(r"\s+", " ", part).rstrip(". ") for part in parts)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"
