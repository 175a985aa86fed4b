"""A language model in the hand: logits, answers and conversations, without a server."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from r1jax import cache, model, parameters, placing, quant
from r1jax.answer import AnswerBuilder, Delta, join
from r1jax.config import ModelConfig
from r1jax.engine import simple
from r1jax.engine.drafts import more_layers
from r1jax.engine.loop import Engine
from r1jax.engine.types import EngineOptions, Event, SamplingParams, check_tokens
from r1jax.errors import ConfigError, TextError
from r1jax.hosts import Hosts
from r1jax.layers import expert_places
from r1jax.layers.expert_places import Places
from r1jax.target import CPU, Target
from r1jax.text import prompts
from r1jax.text.grammar import Grammars
from r1jax.text.masks import TokenMasks
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.tools import Toolbox
from r1jax.typing import PyTree

Message = Mapping[str, Any]


class LLM:
    """A model with its words and its engine.

    Attributes:
      config: The sizes.
      name: What it was loaded from.
      dtype: Of the plain weights, but for the few that are always float32.
      scheme: Which weights are of few bits, and how; None if none are.
      default_sampling: The checkpoint's own recommendation, or R1's.
      target: What its steps are compiled for.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        params: PyTree,
        tokenizer: Tokenizer | None,
        options: EngineOptions,
        default_sampling: SamplingParams,
        seed: int | None = None,
        target: Target = CPU,
        hosts: Hosts | None = None,
        places: Mapping[str, Places] | None = None,
    ) -> None:
        """Takes over `params` (the tree of docs/weights.md, stacked).

        `places` says where experts go that do not lie in order (see
        `layers/expert_places.py`).
        """
        self.name, self.config = name, config
        self.dtype = str(params["final_norm"]["scale"].dtype)
        self.default_sampling = default_sampling
        self.parameter_count = parameters.count(config)
        self.options = options
        self._tokenizer, self._seed = tokenizer, seed
        self.target, self._hosts = target, hosts
        self.scheme = quant.scheme_of(params)
        self._places = places or {}
        self._arranged = placing.placed(config, params, target, self._places)
        self._engine_lock = threading.Lock()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer.

        Raises:
          TextError: The source has none (a preset with random weights).
        """
        if self._tokenizer is None:
            raise TextError(
                f"{self.name} has no tokenizer",
                "a preset has random weights and speaks token ids only",
                "pass token ids, or load a checkpoint",
            )
        return self._tokenizer

    @property
    def has_words(self) -> bool:
        """Whether there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def params(self) -> PyTree:
        """The parameters as docs/weights.md draws them, layers stacked.

        On a CPU the engine keeps them in another arrangement, and so do devices whose
        experts do not lie in order; then this is a copy.
        """
        if self.target.form != "cpu":
            return expert_places.restore(self._arranged)
        like = parameters.abstract(self.config, self.dtype, self.scheme)
        return model.from_cpu(self._arranged, like)

    @cached_property
    def reasoning(self) -> bool:
        """Whether the tokenizer has R1's thinking marks."""
        marks = ("<think>", "</think>")
        return all(self.tokenizer.token_id(mark) is not None for mark in marks)

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles forms that answers must fit."""
        size, ends = self.config.vocab_size, self.config.eos_ids
        return Grammars(TokenMasks(self.tokenizer, size, ends))

    @property
    def engine(self) -> Engine:
        """The engine, made and compiled when first asked for."""
        with self._engine_lock:
            return self._engine

    @cached_property
    def _engine(self) -> Engine:
        pages, size = self.options.num_pages, self.options.page_size
        assert pages is not None
        dtype, on = jnp.dtype(self.dtype), self.target
        more = more_layers(self.options)
        pools = cache.make_pools(self.config, pages, size, dtype, on, more)
        engine = Engine(
            self.config,
            self._arranged,
            pools,
            self.options,
            target=on,
            seed=self._seed,
            hosts=self._hosts,
        )
        self._arranged = engine.params
        return engine

    def bind(self, params: PyTree) -> None:
        """Answers from now on with other weights of the same model.

        They are cast and arranged as loading does. The engine goes on with its compiled
        steps, and forgets the prefixes that the old weights have computed. What needed
        neither is shared with `params`: whoever donates that to a computation must bind
        again before the next request.

        Args:
          params: The tree of docs/weights.md, layers stacked, of any float dtype.

        Raises:
          ConfigError: The tree is not this model's.
          RequestError: Requests are running.
        """
        if self.scheme is not None:
            raise ConfigError(
                f"{self.name} keeps weights in few bits",
                "rounded anew they would answer for another policy than is trained",
                "load it with dtype float32 or bfloat16",
            )
        whole = parameters.abstract(self.config, self.dtype)
        like = {name: whole[name] for name in whole if name in self._arranged}
        mine = {name: params[name] for name in like if name in params}
        forms = [jax.tree.map(lambda x: x.shape, tree) for tree in (like, mine)]
        if forms[0] != forms[1]:
            raise ConfigError(
                f"the tree to bind is not one of {self.name}",
                "names or shapes of its arrays differ from the model's",
                "bind the parameters that were trained from this model",
            )
        arranged = self._arrange(mine)
        with self._engine_lock:
            if "_engine" in self.__dict__:
                self._engine.bind(arranged)
                arranged = self._engine.params
            self._arranged = arranged

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Returns float32 logits [T, V] at every position of one sequence.

        In a program of several processes all of them must ask, for the same ids.

        Raises:
          RequestError: The ids are empty or unknown to the model.
        """
        check_tokens(self.config, token_ids)
        run = simple.whole_logits(self.config, self.target.everywhere)
        logits = run(self._arranged, simple.padded(token_ids))
        return np.asarray(logits[: len(token_ids)])

    def count_routes(self, sequences: Iterable[Sequence[int]]) -> np.ndarray:
        """Counts how often each expert is chosen; see `engine.simple.count_routes`.

        `r1jax.save_expert_loads` keeps the result for `r1jax.load(expert_loads=...)`.
        In a program of several processes all of them must ask, for the same sequences.
        """
        where = self.target.everywhere
        return simple.count_routes(self.config, self._arranged, sequences, where)

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str | Sequence[int]],
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        progress: bool = False,
    ) -> list[Delta]:
        """Continues prompts (text or token ids), all at once, thousands if need be.

        Args:
          prompts: One or several.
          sampling: How to choose tokens; the checkpoint's default if left out.
          stop: Strings that end an answer.
          progress: Shows a bar on standard error.

        Returns:
          For each prompt its answer: `content`, `token_ids`, `finish`, `logprobs`.
        """
        one = isinstance(prompts, str) or (
            len(prompts) > 0 and isinstance(prompts[0], (int, np.integer))
        )
        several: Any = [prompts] if one else prompts
        running = [
            self._start(self._ids(prompt), sampling, stop, None) for prompt in several
        ]
        bar = tqdm(running, unit="prompt", disable=not progress)
        return [join(answer) for answer in bar]

    def chat(
        self, messages: Sequence[Message], sampling: SamplingParams | None = None
    ) -> Delta:
        """Answers a conversation; `reasoning` and `content` come apart."""
        return join(self.stream(messages, sampling))

    def stream(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Delta]:
        """Answers a conversation piece by piece; leaving the loop cancels it."""
        text, thinking = self.render(messages)
        return self._start(self.tokenizer.encode(text), sampling, stop, thinking)

    def render(
        self,
        messages: Sequence[Message],
        thinking: bool = True,
        variables: Mapping[str, Any] | None = None,
        toolbox: Toolbox | None = None,
        continues: bool = False,
    ) -> tuple[str, bool | None]:
        """Returns a conversation as a prompt, and whether the answer begins in thought.

        See `r1jax.text.prompts.render`. For a model that does not reason the second
        value is None.

        Raises:
          TextError: The template refuses the messages, or there is none.
        """
        return prompts.render(
            self.tokenizer,
            messages,
            thinking if self.reasoning else None,
            variables or {},
            toolbox,
            continues,
        )

    def follow(self) -> None:
        """Runs the steps that process 0 plans, until it stops.

        In a program of several processes this is what all but process 0 do, while that
        one answers: `generate`, `chat` and `stream` are for it alone.

        Raises:
          ConfigError: There are no other processes, or this is process 0.
        """
        if self._hosts is None or self._hosts.leads:
            raise ConfigError(
                "there is nobody to follow",
                "only processes other than 0, loaded with hosts=..., run its steps",
                "call generate, chat or stream here",
            )
        self.engine.wait_until_closed()

    def close(self) -> None:
        """Stops the engine, if it runs."""
        if "_engine" in self.__dict__:
            self._engine.close()

    def _arrange(self, params: PyTree) -> PyTree:
        """Casts plain parameters and puts them as the target wants them."""
        cast = self._cast(params)
        if self.target.form == "cpu":
            return cast
        return placing.placed(self.config, cast, self.target, self._places)

    @cached_property
    def _cast(self) -> Callable[[PyTree], PyTree]:
        return jax.jit(placing.make_cast(self.config, self.dtype, self.target))

    def _ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        return prompt

    def _start(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams | None,
        stop: Sequence[str],
        thinking: bool | None,
    ) -> Iterator[Delta]:
        """Submits at once; the returned iterator waits for the pieces."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        builder = None
        if self._tokenizer is not None:
            builder = AnswerBuilder(self._tokenizer, stop, thinking)
        chosen = sampling or self.default_sampling
        number = self.engine.submit(prompt, chosen, events.put)
        return self._pieces(number, events, builder)

    def _pieces(
        self,
        number: int,
        events: "queue.SimpleQueue[Event]",
        builder: AnswerBuilder | None,
    ) -> Iterator[Delta]:
        finish = None
        try:
            while finish is None:
                event = events.get()
                if event.finish == "error":
                    raise RuntimeError(event.error)
                delta = builder.push(event) if builder else _wordless(event)
                finish = delta.finish
                yield delta
        finally:
            self.engine.cancel(number)


def _wordless(event: Event) -> Delta:
    tokens = () if event.token is None else (event.token,)
    return Delta(token_ids=tokens, finish=event.finish)
