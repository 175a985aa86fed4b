"""Answers whose streams are events of many types: OpenAI's responses, Anthropic's.

Their requests become chat completions, and their answers are written from the same
deltas. A whole answer is what the events of its stream add up to.
"""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from r1jax.answer import Delta
from r1jax.serve.errors import ApiError, unexpected
from r1jax.serve.generation import Choice, Generation
from r1jax.serve.job import Usage
from r1jax.serve.stream import write_typed_event

Event = dict[str, Any]


class TypedShape(Protocol):
    """Follows one answer and writes what happens as events, each with its "type"."""

    def start(self) -> list[Event]:
        """Writes what comes before the first token."""

    def events(self, delta: Delta, usage: Usage) -> list[Event]:
        """Takes one delta."""

    def end(self, usage: Usage) -> list[Event]:
        """Writes what comes after the last token."""

    def failed(self, error: ApiError) -> list[Event]:
        """Writes that the answer broke off."""

    def body(self, usage: Usage) -> dict[str, Any]:
        """Writes the whole answer, once it has ended."""


@dataclass
class TypedJob:
    """One understood request of one choice."""

    choice: Choice
    shape: TypedShape
    prompt_tokens: int
    stream: bool


async def whole(job: TypedJob, generation: Generation) -> dict[str, Any]:
    """Follows the answer to its end and gives it in one piece."""
    usage = Usage(job.prompt_tokens)
    job.shape.start()
    async for deltas in generation.deltas(at_once=True):
        for _, delta in deltas:
            usage.add(delta)
            job.shape.events(delta, usage)
    job.shape.end(usage)
    return job.shape.body(usage)


async def stream(job: TypedJob, generation: Generation) -> AsyncGenerator[str]:
    """Writes every event as it comes; a failure is an event too."""
    usage, shape = Usage(job.prompt_tokens), job.shape
    try:
        yield _write(shape.start())
        async with contextlib.aclosing(generation.deltas()) as arrivals:
            async for deltas in arrivals:
                events = []
                for _, delta in deltas:
                    usage.add(delta)
                    events += shape.events(delta, usage)
                if events:
                    yield _write(events)
        yield _write(shape.end(usage))
    except ApiError as error:
        yield _write(shape.failed(error))
    except Exception as error:  # the outer edge of a request that is half answered
        yield _write(shape.failed(unexpected(error)))


def _write(events: list[Event]) -> str:
    return "".join(map(write_typed_event, events))
