"""Waits for a request's events."""

import threading

from golden_files import Golden
from r1jax.engine.guides import Guide
from r1jax.engine.loop import Engine
from r1jax.engine.types import Event, SamplingParams

PATIENCE = 60.0  # seconds; a request that is never finished must fail, not hang


class Answer:
    """Takes one request's events, and says when the last one came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait(self, events: int | None = None) -> "Answer":
        """Waits for the finish, or for so many events."""

        def enough() -> bool:
            if events is not None:
                return len(self.events) >= events
            return any(event.finish for event in self.events)

        with self._changed:
            assert self._changed.wait_for(enough, PATIENCE), "no event came"
        return self

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.events if event.token is not None]

    @property
    def finish(self) -> str | None:
        return self.events[-1].finish


def submit(
    engine: Engine, prompt: list[int], guide: Guide | None = None, **sampling: object
) -> tuple[int, Answer]:
    """Submits a request; greedy where nothing else is said."""
    answer = Answer()
    params = SamplingParams(**{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return engine.submit(prompt, params, answer, guide), answer


def ask(engine: Engine, prompt: list[int], **sampling: object) -> Answer:
    """Submits a request and waits for its end."""
    return submit(engine, prompt, **sampling)[1].wait()


def continuations(engine: Engine, answers: Golden) -> list[list[int]]:
    """Asks the prompts of a golden file together, for as many tokens as it has."""
    running = [
        submit(engine, prompt.tolist(), max_tokens=len(wanted), ignore_eos=True)[1]
        for prompt, wanted in zip(answers.prompts, answers.continuations, strict=True)
    ]
    return [answer.wait().tokens for answer in running]
