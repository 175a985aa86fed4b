"""The engine: submit, step, emit, cancel.

One thread (`stepper.py`) owns the scheduler and the device's state. It plans and starts
step n + 1 while step n still runs, then reads step n's tokens as one small array and
hands each request its own. Other threads only leave word (`requests.py`); the one that
compiles starts a step of padding with each new program, in turn.
"""

import atexit
import dataclasses
import threading
from collections.abc import Sequence as Tokens
from concurrent.futures import ThreadPoolExecutor

from r1jax.cache import Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine.drafts import (
    check_drafts,
    make_drafter,
    more_layers,
)
from r1jax.engine.follow import follow
from r1jax.engine.guides import Guide, rules_for
from r1jax.engine.pages import cut, name_pages
from r1jax.engine.plans import Sequence
from r1jax.engine.requests import OnEvent, Requests
from r1jax.engine.runner import Runner
from r1jax.engine.scheduler import Scheduler
from r1jax.engine.shapes import Shapes
from r1jax.engine.stepper import Stepper
from r1jax.engine.types import (
    EngineOptions,
    EngineStats,
    SamplingParams,
    check_rules,
    check_tokens,
)
from r1jax.errors import ConfigError, RequestError
from r1jax.hosts import Hosts
from r1jax.target import Target
from r1jax.typing import PyTree

_GLANCE_SECONDS = 0.5
_VERDICT_SECONDS = 3  # a step fails a little before its cause, a lost host, is known


class Engine:
    """Serves many requests at once from one set of parameters.

    In a program of several processes each has an engine. That of process 0 takes the
    requests; the others run the steps that it plans.

    Attributes:
      config: The model.
      options: The limits.
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
        drafts = options.num_draft_tokens if options.draft else 0
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
        self._requests = Requests(seed)
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
        self._stepper = Stepper(
            config,
            self._requests,
            self._scheduler,
            self._runner,
            make_drafter(options),
            sum(each.total for each in pages),
        )
        self._shapes = shapes
        with ThreadPoolExecutor() as pool:
            for shape, _ in zip(
                shapes.first, pool.map(self._runner.compile, shapes.first), strict=True
            ):
                shapes.open(shape)
        self._follows = hosts is not None and not hosts.leads
        self._threads = [
            threading.Thread(target=each, name=f"engine{each.__name__}", daemon=True)
            for each in (
                self._follow if self._follows else self._run,
                self._compile_rest,
            )
        ]
        for thread in self._threads:
            thread.start()
        if hosts:
            hosts.ready()
            hosts.watch(self.fail)
        # A thread that is compiling when the interpreter dies takes it down with it.
        atexit.register(self.close)

    @property
    def failure(self) -> str | None:
        """Why no step can run any more; None while all is well."""
        return self._requests.failure

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
        sequence = Sequence(0, tokens, len(prompt), sampling, limit, names=names)
        sequence.rules = rules_for(sampling, self.config, guide)
        return self._requests.add(sequence, on_event)

    def bind(self, params: PyTree) -> None:
        """Answers from now on with other parameters; compiles nothing.

        The prefix cache forgets what the old ones have computed.

        Args:
          params: Like `params` in tree, shapes and dtypes. Arrays that lie as the
            engine wants them are shared with the caller, who must not donate them
            before the next `bind` unless no request comes in between.

        Raises:
          ConfigError: They differ in more than values, or other processes would keep
            the old ones.
          RequestError: Requests are running.
        """
        if self._hosts:
            raise ConfigError(
                "the weights of several processes cannot be changed in place",
                "each holds its own part, and only this one was asked",
                "train with one process",
            )
        with self._requests.paused():
            self._runner.bind(params)
            self._scheduler.forget()

    def cancel(self, request_id: int) -> None:
        """Ends a request early; its last event has finish "abort". Safe to repeat."""
        self._requests.cancel(request_id)

    def stats(self) -> EngineStats:
        """Returns the counters as they stand."""
        now = self._stepper.stats
        return dataclasses.replace(
            now,
            waiting=now.waiting + self._requests.new,
            finished=dict(now.finished),
            step_tokens=dict(now.step_tokens),
        )

    def close(self) -> None:
        """Ends all requests with "abort" and stops the threads."""
        atexit.unregister(self.close)
        self._requests.close()
        for thread in self._threads:
            # A step that waits for a lost process never ends.
            while thread.is_alive() and not (self._hosts and self._hosts.loss):
                thread.join(_GLANCE_SECONDS)

    def fail(self, reason: str) -> None:
        """Ends all requests with "error", from any thread; no step can run any more.

        The first reason counts.
        """
        self._requests.fail(reason)

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

    def _warm(self, shape: Geometry, scores: bool = False) -> None:
        # Other processes run what process 0 starts.
        if not self._follows and not self._requests.closing:
            self._runner.warm(shape, scores)

    def _compile(self, shape: Geometry, scores: bool = False) -> None:
        self._runner.compile(shape, scores)
        self._warm(shape, scores)
        self._shapes.open(shape, scores)
        self._requests.look()

    def _compile_rest(self) -> None:
        shapes = self._shapes
        forms = [(g, False) for g in shapes.rest] + [(g, True) for g in shapes.judging]
        try:
            for shape in shapes.first:
                self._warm(shape)
            for form in forms:
                if not self._requests.closing:
                    self._compile(*form)
        except Exception as error:
            if self._hosts and not self._hosts.leads:
                self._hosts.leave(f"a step cannot be made ready: {error}")
            why = f"a step that it needs cannot be made ready: {error}"
            self._stepper.uncompiled = why
            self._requests.look()
            raise

    def _follow(self) -> None:
        """The thread of an engine that runs another's plan."""
        assert self._hosts is not None
        follow(self._runner, self._hosts)
        self._requests.closing = True

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
            self._stepper.run()
        except Exception as error:
            if self._hosts and (loss := self._hosts.wait_for_loss(_VERDICT_SECONDS)):
                self.fail(loss)
                return
            self.fail(f"a step failed: {error}")
            raise
