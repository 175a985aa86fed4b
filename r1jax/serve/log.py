"""The server's log: one line a request, as text or JSON, and never its words."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1jax.serve.generation import Generation

_REQUESTS = logging.getLogger("r1jax.serve.requests")
LEVELS = ("critical", "error", "warning", "info", "debug")
FORMATS = ("text", "json")


@dataclass
class RequestRecord:
    """What is known of one HTTP request, gathered on its way.

    Attributes:
      id: The request's `X-Request-Id`.
      method: Of HTTP.
      path: What was asked, without its query.
      model: The name it asked for.
      generation: Its sequences, once they run.
      code: Of the error it was answered with.
    """

    id: str
    method: str
    path: str
    model: str | None = None
    generation: Generation | None = None
    code: str | None = None

    def fields(self, status: int, seconds: float) -> dict[str, Any]:
        """Gives what is logged: facts, counts and seconds, no words."""
        fields: dict[str, Any] = {
            "request_id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": status,
            "seconds": round(seconds, 4),
        }
        if self.model is not None:
            fields["model"] = self.model
        if self.code is not None:
            fields["error"] = self.code
        return fields | (_counts(self.generation) if self.generation else {})


def log_request(record: RequestRecord, status: int, seconds: float) -> None:
    """Writes a request's line."""
    if _REQUESTS.isEnabledFor(logging.INFO):
        fields = record.fields(status, seconds)
        _REQUESTS.info("request", extra={"fields": fields})


def set_up(level: str, form: str) -> None:
    """Sends the log of the server, and of uvicorn, to standard error."""
    handler = _ToStderr()
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name in ("r1jax", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [h for h in logger.handlers if not isinstance(h, _ToStderr)]
        logger.addHandler(handler)
    logging.getLogger("r1jax").setLevel(level.upper())


def _counts(generation: Generation) -> dict[str, Any]:
    timers = generation.timers
    first = [t.first_token for t in timers if t.first_token is not None]
    queued = [timer.queued for timer in timers if timer.queued is not None]
    fields: dict[str, Any] = {
        "prompt_tokens": sum(timer.prompt_tokens for timer in timers),
        "cached_tokens": sum(timer.cached_tokens for timer in timers),
        "completion_tokens": sum(timer.tokens for timer in timers),
        "finish": ",".join(timer.finish_reason or "abort" for timer in timers),
    }
    if queued:
        fields["queue_seconds"] = round(max(queued), 4)
    if first:
        fields["first_token_seconds"] = round(min(first), 4)
    return fields


class _ToStderr(logging.Handler):
    """Writes to whatever standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, "fields", {})


class _Text(logging.Formatter):
    """`time level message key=value ...`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's)
        pairs = [f" {name}={_word(value)}" for name, value in _fields(record).items()]
        return super().formatMessage(record) + "".join(pairs)


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _word(value: object) -> str:
    """Writes a value so that a line stays one line, and words stay apart."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
