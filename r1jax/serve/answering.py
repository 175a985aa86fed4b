"""From the deltas of a generation to the response of its job, whole or as a stream."""

import contextlib
from collections.abc import AsyncGenerator
from json.encoder import encode_basestring
from typing import Any

from r1jax.answer import Delta, join
from r1jax.serve.generation import Generation
from r1jax.serve.job import Job
from r1jax.serve.stream import DONE, write_event

_MARK = "\x00text\x00"  # no token's text is this


async def whole(job: Job, generation: Generation) -> dict[str, Any]:
    """Collects the deltas of every choice into one response.

    Raises:
      ApiError: The generation broke off.
    """
    usage = job.usage()
    parts: list[list[Delta]] = [[] for _ in job.choices]
    async for deltas in generation.deltas(at_once=True):
        for index, delta in deltas:
            usage.add(delta, index)
            parts[index].append(delta)
    answers = [join(part) for part in parts]
    body = job.shape.whole(answers) | {"usage": usage.body()}
    if job.extras is not None:
        job.extras.whole(body, answers)
    return body


async def stream(job: Job, generation: Generation) -> AsyncGenerator[str]:
    """Writes deltas as they come, in one piece those that come together.

    Usage is last, or with each chunk, where wanted.

    Raises:
      ApiError: The generation broke off.
    """
    writer = ChunkWriter(job)
    async with contextlib.aclosing(generation.deltas()) as arrivals:
        async for deltas in arrivals:
            piece = "".join([writer.write(index, delta) for index, delta in deltas])
            if piece:
                yield piece
    yield writer.last()


class ChunkWriter:
    """Writes the events of one stream.

    Most deltas hold a little text and nothing else. Where the shape says that nothing
    but the text differs between their chunks (`Shape.steady`), what is around the text
    is written once and used again; the result is what writing the chunk anew gives.
    """

    def __init__(self, job: Job) -> None:
        """Begins the stream of a job."""
        options = job.stream_options
        self._shape = job.shape
        self._extras = job.extras
        self._usage = job.usage()
        self._counted = options is not None and options.include_usage
        self._always = (
            self._counted and options is not None and options.continuous_usage_stats
        )
        self._steady = job.shape.steady and not (self._always or job.extras)
        self._frames: dict[tuple[int, bool], list[str]] = {}

    def write(self, index: int, delta: Delta) -> str:
        """Writes one delta of one choice; nothing where there is nothing to say."""
        self._usage.add(delta, index)
        if not self._steady or not _is_text(delta):
            return self._plain(index, delta)
        key = index, bool(delta.reasoning)
        frame = self._frames.get(key)
        if frame is None:
            written = self._plain(index, delta)  # first, as a choice's first differs
            self._frames[key] = self._frame(*key)
            return written
        return encode_basestring(delta.reasoning or delta.content).join(frame)

    def last(self) -> str:
        """Writes the end of the stream, after the usage where that is wanted."""
        if not self._counted:
            return DONE
        chunk = self._shape.usage_chunk() | {"usage": self._usage.body()}
        return write_event(chunk) + DONE

    def _plain(self, index: int, delta: Delta) -> str:
        chunks = self._shape.chunks(index, delta)
        if self._extras is not None:
            self._extras.stream(chunks, index, delta)
        for chunk in chunks if self._counted else ():
            chunk["usage"] = self._usage.body() if self._always else None
        return "".join(map(write_event, chunks))

    def _frame(self, index: int, thought: bool) -> list[str]:
        """Gives what is written around a text, as often as it is; "" if it is not."""
        marked = Delta(reasoning=_MARK) if thought else Delta(content=_MARK)
        return self._plain(index, marked).split(encode_basestring(_MARK))


def _is_text(delta: Delta) -> bool:
    """Tells whether a delta holds text of one kind, and nothing else to be written."""
    return bool(delta.reasoning) != bool(delta.content) and not (
        delta.finish or delta.logprobs or delta.tool_calls
    )
