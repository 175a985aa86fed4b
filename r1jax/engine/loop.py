"""The engine: submit, step, emit, cancel.

One thread owns the scheduler and the device's state. It plans and starts step n + 1
while step n still runs, then reads step n's tokens as one small array and hands each
request its own. Where tokens are guessed ahead it reads them first: which guesses were
right decides what comes next. Other threads only append to two inboxes.
"""

import atexit
import dataclasses
import random
import threading
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from r1jax.cache import Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine.drafts import (
    accepted,
    check_drafts,
    guess_for,
    make_drafter,
    more_layers,
)
from r1jax.engine.follow import follow
from r1jax.engine.guides import Guide, rules_for
from r1jax.engine.pages import cut, name_pages
from r1jax.engine.plans import Plan, Row, Sequence
from r1jax.engine.results import end_without_token, fetch, result
from r1jax.engine.runner import Runner
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.shapes import Shapes
from r1jax.engine.steps import Outputs
from r1jax.engine.types import (
    EngineOptions,
    EngineStats,
    Event,
    SamplingParams,
    check_rules,
    check_tokens,
)
from r1jax.errors import RequestError
from r1jax.hosts import Hosts
from r1jax.target import Target
from r1jax.typing import PyTree

OnEvent = Callable[[Event], None]
_GLANCE_SECONDS = 0.5
_VERDICT_SECONDS = 3  # a step fails a little before its cause, a lost host, is known


@dataclasses.dataclass(frozen=True)
class _InFlight:
    plan: Plan
    outputs: Outputs


class Engine:
    """Serves many requests at once from one set of parameters.

    In a program of several processes each has an engine. That of process 0 takes the
    requests; the others run the steps that it plans.

    Attributes:
      config: The model.
      options: The limits.
      failure: Why no step can run any more; None while all is well.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: PyTree,
        pools: Pools,
        options: EngineOptions,
        *,
        target: Target,
        seed: int | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        """Compiles the steps that suffice and starts the engine's thread.

        Shapes that are only faster are compiled behind it, on a thread of their own.

        Args:
          config: The model.
          params: Its parameters, stacked, or for a CPU as `model.for_cpu` has
            arranged them; the engine takes them over (see `params`).
          pools: The cache; the engine takes it over.
          options: Limits.
          target: What to compile for; the pools are laid out for it.
          seed: Makes requests without a seed of their own repeatable, in the order
            in which they come; None draws their seeds.
          hosts: The other processes, where there are any; all must make an engine, with
            the same arguments.

        Raises:
          ConfigError: The cache is too small for one request at full length.
        """
        self.config, self.options = config, options
        check_drafts(config, options.draft)
        self._drafter = make_drafter(options)
        drafts = options.num_draft_tokens if self._drafter else 0
        columns, pages = cut(config, options, pools, target)
        shapes = Shapes(
            options.max_num_seqs,
            options.max_num_batched_tokens,
            drafts,
            fine=target.form == "cpu",
        )
        self._scheduler = Scheduler(
            pages, shapes, options.max_num_seqs, options.prefix_caching
        )
        self._hosts = hosts
        tell = hosts.send if hosts and hosts.leads else None
        slots = len(pages) * options.max_num_seqs
        guesses = drafts * more_layers(options)
        layers = config.layers + more_layers(options)
        assert not guesses or next(iter(pools.values())).shape[0] == layers
        self._runner = Runner(
            config, params, pools, slots, columns, target, tell, guesses
        )
        if target.kernels:
            self._runner.lay_out(shapes.first[-1])
        self._sequences: dict[int, tuple[Sequence, OnEvent]] = {}
        self._seeds: dict[int, int] = {}
        self._inbox: list[tuple[Sequence, OnEvent]] = []
        self._cancelled: list[int] = []
        self._wake = threading.Condition()
        self._closing = False
        self.failure: str | None = None
        self._uncompiled = ""
        self._next_id = 0
        self._draw = random.Random(seed)
        self._stats = EngineStats(pages_total=sum(each.total for each in pages))
        self._shapes = shapes
        with ThreadPoolExecutor() as pool:
            for shape, _ in zip(
                shapes.first, pool.map(self._runner.compile, shapes.first), strict=True
            ):
                shapes.open(shape)
        follows = hosts is not None and not hosts.leads
        self._threads = [
            threading.Thread(target=each, name=f"engine{each.__name__}", daemon=True)
            for each in (self._follow if follows else self._run, self._compile_rest)
        ]
        for thread in self._threads:
            thread.start()
        if hosts:
            hosts.ready()
            hosts.watch(self.fail)
        # A thread that is compiling when the interpreter dies takes it down with it.
        atexit.register(self.close)

    @property
    def params(self) -> PyTree:
        """The parameters, as the engine keeps them."""
        return self._runner.params

    @property
    def max_model_len(self) -> int:
        """Longest context of a request, prompt and answer, in tokens."""
        return self.options.max_model_len

    def submit(
        self,
        prompt: Tokens[int],
        sampling: SamplingParams,
        on_event: OnEvent,
        guide: Guide | None = None,
    ) -> int:
        """Queues a request and returns its number.

        Args:
          prompt: Token ids.
          sampling: How to choose tokens.
          on_event: Called with each `Event`, on the engine's thread (or on that of
            `fail`); it must return at once and must not raise.
          guide: Says what may come next, beside the rules of `sampling`; the engine
            takes it over, for this answer alone.

        Raises:
          RequestError: The prompt is empty, too long, or it or a rule has ids that the
            model does not know; or the engine has failed, is closed, or follows
            another's plan.
        """
        self._check(prompt, sampling)
        limit = self.max_model_len - len(prompt)
        if sampling.max_tokens is not None:
            limit = min(limit, sampling.max_tokens)
        if self._hosts and not self._hosts.leads:
            raise RequestError(
                f"process {self._hosts.index} does not take requests",
                "process 0 plans the steps of all",
                "ask process 0",
            )
        tokens, names = [int(t) for t in prompt], list[bytes]()
        if self.options.prefix_caching:
            name_pages(names, tokens, self.options.page_size)
        rules = rules_for(sampling, self.config, guide)
        with self._wake:
            if self.failure or self._closing:
                raise RequestError(
                    "the engine does not take requests",
                    self.failure or "it is shutting down",
                    "restart the server and look at its log",
                )
            self._next_id += 1
            number = self._next_id
            sequence = Sequence(
                number, tokens, len(prompt), sampling, limit, names=names
            )
            sequence.rules = rules
            own = sampling.seed
            self._seeds[number] = self._draw.getrandbits(64) if own is None else own
            self._inbox.append((sequence, on_event))
            self._wake.notify()
        return number

    def cancel(self, request_id: int) -> None:
        """Ends a request early; its last event has finish "abort". Safe to repeat."""
        with self._wake:
            self._cancelled.append(request_id)
            self._wake.notify()

    def stats(self) -> EngineStats:
        """Returns the counters as they stand."""
        with self._wake:
            now = self._stats
            return dataclasses.replace(
                now,
                waiting=now.waiting + len(self._inbox),
                finished=dict(now.finished),
                step_tokens=dict(now.step_tokens),
            )

    def close(self) -> None:
        """Ends all requests with "abort" and stops the threads."""
        atexit.unregister(self.close)
        with self._wake:
            self._closing = True
            self._wake.notify()
        for thread in self._threads:
            # A step that waits for a lost process never ends.
            while thread.is_alive() and not (self._hosts and self._hosts.loss):
                thread.join(_GLANCE_SECONDS)

    def fail(self, reason: str) -> None:
        """Ends all requests with "error", from any thread; no step can run any more.

        The first reason counts.
        """
        with self._wake:
            if self.failure or self._closing:
                return
            self.failure = reason
            self._wake.notify()
        for sequence, on_event in self._everything():
            on_event(Event(sequence.id, finish="error", error=reason))

    def wait_until_closed(self) -> None:
        """Waits until no more steps run; in others than process 0, until that ends."""
        self._threads[0].join()

    @property
    def compiled(self) -> bool:
        """Whether the shapes that are only faster are compiled too."""
        return not self._threads[1].is_alive()

    def wait_until_compiled(self) -> None:
        """Waits until the shapes that are only faster are compiled too."""
        self._threads[1].join()

    def _compile(self, shape: Geometry, scores: bool = False) -> None:
        self._runner.compile(shape, scores)
        with self._wake:
            self._shapes.open(shape, scores)
            self._wake.notify()

    def _compile_rest(self) -> None:
        shapes = self._shapes
        forms = [(g, False) for g in shapes.rest] + [(g, True) for g in shapes.judging]
        try:
            for form in forms:
                if not self._closing:
                    self._compile(*form)
        except Exception as error:
            if self._hosts and not self._hosts.leads:
                self._hosts.leave(f"a step cannot be compiled: {error}")
            with self._wake:
                self._uncompiled = f"a step that it needs cannot be compiled: {error}"
                self._wake.notify()
            raise

    def _follow(self) -> None:
        """The thread of an engine that runs another's plan."""
        assert self._hosts is not None
        follow(self._runner, self._hosts)
        self._closing = True

    def _check(self, prompt: Tokens[int], sampling: SamplingParams) -> None:
        check_tokens(self.config, prompt)
        check_rules(self.config, sampling)
        if len(prompt) + (sampling.max_tokens != 0) > self.max_model_len:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens",
                f"the context holds {self.max_model_len}, the answer included",
                f"shorten it to at most {self.max_model_len - 1} tokens, or serve "
                "with a larger --max-model-len",
            )

    def _run(self) -> None:
        """The engine's thread: an outer edge, so it catches everything, once."""
        try:
            self._loop()
        except Exception as error:
            if self._hosts and (loss := self._hosts.wait_for_loss(_VERDICT_SECONDS)):
                self.fail(loss)
                return
            self.fail(f"a step failed: {error}")
            raise

    def _loop(self) -> None:
        flying: _InFlight | None = None
        while True:
            if not self._take_in(wait=flying is None):
                break
            plan = self._scheduler.plan()
            ahead = None
            if plan is not None:
                ahead = _InFlight(plan, self._runner.dispatch(plan, self._seeds))
            if flying is not None:
                self._emit(flying)
            flying = ahead
            if self._drafter and flying is not None:
                self._emit(flying)
                flying = None
            if plan is not None:
                self._count(plan)
            self._note()
        if self.failure:
            return
        for sequence, on_event in self._everything():
            on_event(Event(sequence.id, finish="abort"))

    def _everything(self) -> list[tuple[Sequence, OnEvent]]:
        with self._wake:
            return [*self._sequences.values(), *self._inbox]

    def _take_in(self, wait: bool) -> bool:
        """Moves the inboxes over; sleeps while there is nothing to do at all."""
        with self._wake:
            while wait and not (
                any(self._ready(sequence) for sequence, _ in self._inbox)
                or self._cancelled
                or self._closing
                or self.failure
                or self._sequences
            ):
                self._wake.wait()
            if self._closing or self.failure:
                return False
            inbox = [new for new in self._inbox if self._ready(new[0])]
            self._inbox = [new for new in self._inbox if not self._ready(new[0])]
            cancelled, self._cancelled = self._cancelled, []
            for sequence, on_event in inbox:
                self._sequences[sequence.id] = sequence, on_event
        for sequence, _ in inbox:
            self._scheduler.add(sequence)
            self._stats.prompt_tokens += sequence.prompt_length
        for number in cancelled:
            if number in self._sequences:
                self._finish(self._sequences[number][0], Event(number, finish="abort"))
        for sequence, _ in inbox:
            if not (self._shapes.scores or sequence.finished) and sequence.scores:
                event = Event(sequence.id, finish="error", error=self._uncompiled)
                self._finish(sequence, event)
        return True

    def _ready(self, sequence: Sequence) -> bool:
        """Whether what its steps need is compiled, or nobody wants them any more."""
        waits = sequence.scores and not (self._shapes.scores or self._uncompiled)
        return not waits or sequence.id in self._cancelled

    def _emit(self, step: _InFlight) -> None:
        """Reads a step's tokens and hands them out."""
        read = fetch(step.plan, step.outputs)
        guesses = read.get("drafts")
        for number, i, row in step.plan.sampled():
            if not row.sequence.finished and not self.failure:
                self._hand_out(row, i, read)
                if self._drafter and not row.sequence.finished:
                    ahead = None if guesses is None else guesses[number]
                    row.sequence.drafts = guess_for(self._drafter, row.sequence, ahead)

    def _hand_out(self, row: Row, i: int, read: dict[str, np.ndarray]) -> None:
        """Hands out a row's next token, and those behind it that were guessed."""
        sequence = row.sequence
        sequence.pending -= 1
        if end := end_without_token(sequence):
            return self._finish(sequence, end)
        sampled = read["token"][i : i + 1 + len(row.drafts)].tolist()
        right = accepted(row.drafts, sampled)
        sequence.computed += right
        self._stats.drafts += bool(row.drafts)
        self._stats.drafted += len(row.drafts)
        self._stats.accepted += right
        for at, token in enumerate(sampled[: right + 1], i):
            sequence.tokens.append(token)
            self._stats.generation_tokens += 1
            event = result(sequence, at, read, self.config.eos_ids)
            if event.finish:
                return self._finish(sequence, event)
            if sequence.rules is not None:
                sequence.rules.advance(token)
            self._sequences[sequence.id][1](event)
        return None

    def _finish(self, sequence: Sequence, event: Event) -> None:
        sequence.finished = True
        self._scheduler.remove(sequence)
        if self._drafter:
            self._drafter.forget(sequence)
        with self._wake:
            _, on_event = self._sequences.pop(sequence.id)
            del self._seeds[sequence.id]
        finished = self._stats.finished
        finished[str(event.finish)] = finished.get(str(event.finish), 0) + 1
        self._note()  # whoever hears the last event finds nothing running
        on_event(event)

    def _count(self, plan: Plan) -> None:
        fed, stats = sum(row.count for _, _, row in plan.placed()), self._stats
        size = 1 << (fed - 1).bit_length()
        stats.step_tokens[size] = stats.step_tokens.get(size, 0) + 1
        stats.fed_tokens += fed
        stats.steps += 1

    def _note(self) -> None:
        stats, scheduler = self._stats, self._scheduler
        stats.running = len(scheduler.running)
        stats.waiting = len(scheduler.waiting)
        stats.pages_used = scheduler.pages_used
        stats.preemptions = scheduler.preemptions
        stats.prefix_queries = scheduler.prefix_queries
        stats.prefix_hits = scheduler.prefix_hits
