"""Requests from a file, answers to a file: OpenAI's batch format, without a server.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

gives, in the order in which answers are finished,

    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200,
     "request_id": "...", "body": {...}}, "error": null}

A request that is refused is answered with the status and body that the server would
send; a line that is no request gets an `error` with the line's number instead of a
response. What the output holds already is not asked again, so a batch that was stopped
or killed goes on with the same command.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from r1jax.errors import ConfigError, RequestError, TextError
from r1jax.serve import chat, completions
from r1jax.serve.answering import whole
from r1jax.serve.body import parse_json
from r1jax.serve.errors import ApiError, bad_request, from_error, unexpected
from r1jax.serve.generation import Admission, Limits
from r1jax.serve.job import Job, check_model
from r1jax.serve.metrics import Metrics
from r1jax.serve.stream import write_json

if TYPE_CHECKING:
    from r1jax.llm import LLM

ENDPOINTS: dict[str, Callable[[dict[str, Any], "LLM", str], Job]] = {
    "/v1/chat/completions": chat.prepare,
    "/v1/completions": completions.prepare,
}
_HEAD = '{"id":"batch_req_'  # how every line of an output begins
_UNLIMITED = Limits(max_queued=2**31)


@dataclass
class Tally:
    """What became of a batch: lines answered, refused, and found answered already."""

    answered: int = 0
    refused: int = 0
    skipped: int = 0
    failure: str | None = None


@dataclass
class _Done:
    """What an output holds: requests by `custom_id`, other lines by their number."""

    ids: set[str] = field(default_factory=set)
    lines: set[int] = field(default_factory=set)


class _BadLine(Exception):  # noqa: N818 (it becomes an answer)
    """A line that is no request, with a code and a message."""


def run_batch(llm: "LLM", names: Sequence[str], source: Path, output: Path) -> Tally:
    """Answers the requests of a file.

    Args:
      llm: The model.
      names: What it may be called.
      source: A JSON line for each request.
      output: Where answers are added.

    Raises:
      ConfigError: `source` cannot be read, or `output` is not the output of a batch.
    """
    total = count_lines(source)
    done = mend(output)
    with (
        source.open("rb") as lines,
        output.open("a", encoding="utf-8") as answers,
        tqdm(total=total, unit="request", disable=None) as bar,
    ):
        return asyncio.run(_Batch(llm, names, answers, done, bar).run(lines))


def count_lines(source: Path) -> int:
    """Counts the lines of a batch, so that a file that is not there is told at once.

    Raises:
      ConfigError: It cannot be read.
    """
    try:
        with source.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise ConfigError(
            f"the batch {source} cannot be read", str(error), "name a JSONL file"
        ) from None


def mend(output: Path) -> _Done:
    """Reads what an output holds, and cuts off a last line that was never finished.

    Raises:
      ConfigError: It cannot be written, or is something else, which is left alone.
    """
    done, whole_bytes = _Done(), 0
    try:
        with output.open("ab+") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not _note(line, done):
                    if line.endswith(b"\n") or not _may_begin(line):
                        raise _no_output(output, f"line {number} is no answer")
                    file.truncate(whole_bytes)
                elif not line.endswith(b"\n"):
                    file.write(b"\n")
                whole_bytes += len(line)
    except OSError as error:
        raise _no_output(output, str(error)) from None
    return done


def _may_begin(line: bytes) -> bool:
    head = _HEAD.encode()
    return line.startswith(head) or head.startswith(line)


def _note(line: bytes, done: _Done) -> bool:
    """Notes one answer; tells whether it is one."""
    try:
        answer = json.loads(line)
        if answer["custom_id"] is not None:
            done.ids.add(answer["custom_id"])
        else:
            done.lines.add(answer["error"]["line"])
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _no_output(output: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{output} cannot take the answers",
        why,
        "name a new file, or the output of the same batch",
    )


class _Batch:
    """One run: so many requests at a time, each answered when it is done."""

    def __init__(
        self,
        llm: "LLM",
        names: Sequence[str],
        answers: TextIO,
        done: _Done,
        bar: "tqdm[None]",
    ) -> None:
        self._llm, self._names = llm, names
        self._answers, self._done, self._bar = answers, done, bar
        metrics = Metrics(llm.engine, names[0])
        self._admission = Admission(llm.engine, metrics, _UNLIMITED)
        self._seen: set[str] = set()
        self._tally = Tally()

    async def run(self, lines: Iterator[bytes]) -> Tally:
        """Answers all lines; enough run at a time that the engine never waits."""
        numbered = ((i, line) for i, line in enumerate(lines, 1) if line.strip())
        workers = max(16, 2 * self._llm.engine.options.max_num_seqs)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(numbered))
        return self._tally

    async def _work(self, numbered: Iterator[tuple[int, bytes]]) -> None:
        for number, line in numbered:
            if self._tally.failure is None:
                await self._answer(number, line)
                self._bar.update()

    async def _answer(self, number: int, line: bytes) -> None:
        try:
            request = self._read(number, line)
        except _BadLine as bad:
            if number in self._done.lines:
                self._tally.skipped += 1
                return
            code, message = bad.args
            message = f"line {number}: {message}"
            error = {"code": code, "message": message, "line": number}
            self._tally.refused += 1
            self._write(None, None, error)
            return
        custom_id = request["custom_id"]
        if custom_id in self._done.ids:
            self._tally.skipped += 1
            return
        status, body = await self._respond(request)
        if self._admission.failure is not None and status >= 500:
            self._tally.failure = self._admission.failure  # to be asked again
            return
        self._tally.answered += status == 200
        self._tally.refused += status != 200
        name = secrets.token_hex(16)
        response = {"status_code": status, "request_id": name, "body": body}
        self._write(custom_id, response, None)

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        """Reads a line as a request.

        Raises:
          _BadLine: It is none, or one with the `custom_id` of another.
        """
        try:
            request = parse_json(line)
        except ApiError as error:
            raise _BadLine(error.code, f"{error.what}: {error.why}") from None
        custom_id = request.get("custom_id")
        if not isinstance(custom_id, str):
            raise _BadLine("invalid_custom_id", "'custom_id' is not a string")
        if custom_id in self._seen:
            raise _BadLine("duplicate_custom_id", f"{custom_id[:80]!r} came before")
        self._seen.add(custom_id)
        return request

    async def _respond(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Gives the status and the body that the server would send."""
        try:
            return 200, await self._ask(request)
        except (RequestError, TextError) as error:
            known = error if isinstance(error, ApiError) else from_error(error)
        except Exception as error:  # the edge of one request among many
            known = unexpected(error)
        return known.status, known.body()

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        url, body = request.get("url"), request.get("body")
        prepare = ENDPOINTS.get(url) if isinstance(url, str) else None
        if prepare is None or request.get("method") != "POST":
            raise bad_request(
                f"{str(request.get('method'))[:20]} {str(url)[:80]} is not served here",
                f"a batch may POST to {', '.join(ENDPOINTS)}",
                "name one of them in 'url'",
                "url",
            )
        if not isinstance(body, dict):
            raise bad_request("'body' is not an object", "", "send one", "body")
        if body.get("stream"):
            raise bad_request(
                "'stream' in a batch", "nobody listens", "leave it out", "stream"
            )
        model = check_model(body.get("model"), self._names)
        job = await asyncio.to_thread(prepare, body, self._llm, model)
        generation = self._admission.admit(job.choices)
        try:
            return await whole(job, generation)
        finally:
            generation.close()

    def _write(
        self,
        custom_id: str | None,
        response: dict[str, Any] | None,
        error: dict[str, Any] | None,
    ) -> None:
        """Adds one line, which is with the system before the next is begun."""
        line = {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        self._answers.write(write_json(line) + "\n")
        self._answers.flush()
