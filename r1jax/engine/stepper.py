"""The engine's thread: take in, plan, start a step, hand out the one before."""

from dataclasses import dataclass

import numpy as np

from r1jax.config import ModelConfig
from r1jax.engine.drafts import Drafter, accepted, guess_for
from r1jax.engine.plans import Plan, Row, Sequence
from r1jax.engine.requests import Requests
from r1jax.engine.results import end_without_token, fetch, result
from r1jax.engine.runner import Runner
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.steps import Outputs
from r1jax.engine.types import EngineStats, Event


@dataclass(frozen=True)
class _InFlight:
    plan: Plan
    outputs: Outputs


class Stepper:
    """Runs the steps of what is asked, each begun while the one before still runs.

    Where tokens are guessed ahead a step is read before the next is planned, since how
    many guesses were right decides what it feeds.

    Attributes:
      stats: Counters, read by other threads.
      uncompiled: Why prompts cannot be judged; empty while that may still come.
    """

    def __init__(
        self,
        config: ModelConfig,
        requests: Requests,
        scheduler: Scheduler,
        runner: Runner,
        drafter: Drafter | None,
        pages: int,
    ) -> None:
        """Takes the parts of an engine, and how many pages there are."""
        self._ends, self._requests = config.eos_ids, requests
        self._scheduler, self._runner = scheduler, runner
        self._drafter = drafter
        self.stats = EngineStats(pages_total=pages)
        self.uncompiled = ""

    def run(self) -> None:
        """Steps until the engine stops."""
        flying: _InFlight | None = None
        while self._take_in(wait=flying is None):
            plan = self._scheduler.plan()
            ahead = None
            if plan is not None:
                outputs = self._runner.dispatch(plan, self._requests.seeds)
                ahead = _InFlight(plan, outputs)
            if flying is not None:
                self._emit(flying)
            flying = ahead
            if self._drafter and flying is not None:
                self._emit(flying)
                flying = None
            if plan is not None:
                self._count(plan)
            self._note()
        if not self._requests.failure:
            self._requests.abort()

    def _take_in(self, wait: bool) -> bool:
        taken = self._requests.take(self._ready, wait)
        if taken is None:
            return False
        new, cancelled = taken
        for sequence in new:
            self._scheduler.add(sequence)
            self.stats.prompt_tokens += sequence.prompt_length
        for sequence in cancelled:
            if not sequence.finished:  # it may have been cancelled twice
                self._finish(sequence, Event(sequence.id, finish="abort"))
        judges = self._scheduler.shapes.scores
        for sequence in new:
            if sequence.scores and not (judges or sequence.finished):
                error = Event(sequence.id, finish="error", error=self.uncompiled)
                self._finish(sequence, error)
        return True

    def _ready(self, sequence: Sequence) -> bool:
        """Whether what a sequence's steps need is compiled, or never will be."""
        known = self._scheduler.shapes.scores or self.uncompiled
        return bool(known) or not sequence.scores

    def _emit(self, step: _InFlight) -> None:
        """Reads a step's tokens and hands them out."""
        read = fetch(step.plan, step.outputs)
        guesses = read.get("drafts")
        for number, i, row in step.plan.sampled():
            if not row.sequence.finished and not self._requests.failure:
                self._hand_out(row, i, read)
                if self._drafter and not row.sequence.finished:
                    ahead = None if guesses is None else guesses[number]
                    row.sequence.drafts = guess_for(self._drafter, row.sequence, ahead)

    def _hand_out(self, row: Row, i: int, read: dict[str, np.ndarray]) -> None:
        """Hands out a row's next token, and those behind it that were guessed."""
        sequence, stats = row.sequence, self.stats
        sequence.pending -= 1
        if end := end_without_token(sequence):
            return self._finish(sequence, end)
        sampled = read["token"][i : i + 1 + len(row.drafts)].tolist()
        right = accepted(row.drafts, sampled)
        sequence.computed += right
        stats.drafts += bool(row.drafts)
        stats.drafted += len(row.drafts)
        stats.accepted += right
        for at, token in enumerate(sampled[: right + 1], i):
            sequence.tokens.append(token)
            stats.generation_tokens += 1
            event = result(sequence, at, read, self._ends)
            if event.finish:
                return self._finish(sequence, event)
            if sequence.rules is not None:
                sequence.rules.advance(token)
            self._requests.tell(event)
        return None

    def _finish(self, sequence: Sequence, event: Event) -> None:
        sequence.finished = True
        self._scheduler.remove(sequence)
        if self._drafter:
            self._drafter.forget(sequence)
        on_event = self._requests.forget(sequence.id)
        finished = self.stats.finished
        finished[str(event.finish)] = finished.get(str(event.finish), 0) + 1
        self._note()  # whoever hears the last event finds nothing running
        on_event(event)

    def _count(self, plan: Plan) -> None:
        fed, stats = sum(row.count for _, _, row in plan.placed()), self.stats
        size = 1 << (fed - 1).bit_length()
        stats.step_tokens[size] = stats.step_tokens.get(size, 0) + 1
        stats.fed_tokens += fed
        stats.steps += 1

    def _note(self) -> None:
        stats, scheduler = self.stats, self._scheduler
        stats.running = len(scheduler.running)
        stats.waiting = len(scheduler.waiting)
        stats.pages_used = scheduler.pages_used
        stats.preemptions = scheduler.preemptions
        stats.prefix_queries = scheduler.prefix_queries
        stats.prefix_hits = scheduler.prefix_hits
