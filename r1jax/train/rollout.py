"""Answers of the policy that learns: sampled by the engine, judged as each one ends.

The engine has the trainer's own weights (`LLM.bind`), so the log-probabilities that it
reports are those that training starts from, but for rounding.
"""

import contextlib
import hashlib
import queue
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import flax.struct
import jax
import numpy as np

from r1jax.engine.types import Event, SamplingParams
from r1jax.errors import ConfigError
from r1jax.llm import LLM
from r1jax.train.batch import Example, Packed, pack
from r1jax.typing import Array, Float, PyTree

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Completion:
    """One sampled answer.

    Attributes:
      prompt: The rendered prompt; empty where tokens were given.
      prompt_tokens: Its token ids.
      tokens: The answer's, the end token among them.
      logprobs: Of each under the policy that sampled it.
      text: The answer in words; empty without a tokenizer.
      finish: "stop" or "length".
    """

    prompt: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: str


# Answers as they end: the prompt's number, the place in its group, the answer.
Ended = Generator[tuple[int, int, Completion], None, None]


@dataclass(frozen=True)
class Prompt(Generic[Asked]):
    """What is asked: its tokens, its text, and what rewards judge the answers by."""

    task: Asked
    tokens: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True)
class Judged:
    """A completion with its rewards, by name; "reward" is what counts."""

    completion: Completion
    rewards: dict[str, float]


def tempered(params: PyTree, temperature: float) -> PyTree:
    """Returns parameters whose policy at temperature 1 is this one's at `temperature`.

    Logits are linear in the last norm's scale. So the engine's log-probabilities, which
    know no temperature, and the trainer's are of one distribution.
    """
    if temperature == 1:
        return params
    scale = params["final_norm"]["scale"] / temperature
    return params | {"final_norm": params["final_norm"] | {"scale": scale}}


def sample(
    llm: LLM,
    prompts: Sequence[Prompt[Asked]],
    judge: Callable[[Asked, Completion], dict[str, float]],
    *,
    group: int,
    max_tokens: int,
    seed: int,
) -> list[list[Judged]]:
    """Samples answers to each prompt, and judges each while the others go on.

    Args:
      llm: As in `each_ended`, like the rest.
      prompts: What is asked.
      judge: Gives an answer's rewards; "reward" among them.
      group: Answers to each prompt.
      max_tokens: Most tokens of an answer.
      seed: Decides all answers, however they were batched.

    Returns:
      Groups in the order of the prompts.

    Raises:
      RequestError: The engine cannot take a prompt.
      RuntimeError: The engine failed.
    """
    judged: dict[tuple[int, int], Judged] = {}
    numbered = dict(enumerate(prompts))
    ended = each_ended(llm, numbered, group=group, max_tokens=max_tokens, seed=seed)
    with contextlib.closing(ended):
        for i, g, completion in ended:
            rewards = judge(prompts[i].task, completion)
            judged[i, g] = Judged(completion, rewards)
    return [[judged[i, g] for g in range(group)] for i in range(len(prompts))]


def each_ended(
    llm: LLM,
    prompts: Mapping[int, Prompt[Asked]],
    *,
    group: int,
    max_tokens: int,
    seed: int,
) -> Ended:
    """Samples answers at temperature 1 from the whole vocabulary.

    Prompts of a group share their full pages through the prefix cache. Who leaves the
    generator cancels what runs.

    Args:
      llm: Bound to the weights, `tempered` if need be.
      prompts: What is asked, by numbers of the caller's.
      group: Answers to each prompt.
      max_tokens: Most tokens of an answer.
      seed: With a prompt's number it decides its answers, however they were batched.

    Yields:
      Each answer when it ends, behind its prompt's number and its place in the group.

    Raises:
      RequestError: The engine cannot take a prompt.
      RuntimeError: The engine failed.
    """
    ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    events: dict[tuple[int, int], list[Event]] = {
        (i, g): [] for i in prompts for g in range(group)
    }

    def hear(at: tuple[int, int]) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            events[at].append(event)
            if event.finish:
                ended.put(at)

        return on_event

    numbers = []
    try:
        for i, g in events:
            how = SamplingParams(
                temperature=1.0,
                top_p=1.0,
                max_tokens=max_tokens,
                logprobs=0,
                seed=seed_of(seed, i, g),
            )
            numbers.append(llm.engine.submit(prompts[i].tokens, how, hear((i, g))))
        for _ in numbers:
            i, g = ended.get()
            yield i, g, _completed(llm, prompts[i], events[i, g])
    except BaseException:
        for number in numbers:
            llm.engine.cancel(number)
        raise


def seed_of(*parts: int) -> int:
    """Returns a seed of 56 bits that differs wherever a part does."""
    taken = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(taken)


def _completed(llm: LLM, prompt: Prompt[Asked], events: list[Event]) -> Completion:
    last = events[-1]
    if last.finish not in ("stop", "length"):
        raise RuntimeError(last.error or f"a rollout ended with {last.finish}")
    tokens = [(e.token, e.logprob) for e in events if e.token is not None]
    ids = tuple(token for token, _ in tokens)
    text = llm.tokenizer.decode(ids, continues=True) if llm.has_words else ""
    logprobs = tuple(float(own) for _, own in tokens if own is not None)
    assert len(logprobs) == len(ids)
    return Completion(prompt.text, prompt.tokens, ids, logprobs, text, last.finish)


@flax.struct.dataclass
class Rows:
    """Rollouts for an update, one sequence a row, filled up to a common width.

    Attributes:
      packed: Prompt and answer; weights are 1 on the answer's tokens.
      old: Log-probabilities under the policy that sampled.
      advantages: Of each row.
      scale: What a token of each row weighs in the loss.
    """

    packed: Packed
    old: Float[Array, "R W"]
    advantages: Float[Array, " R"]
    scale: Float[Array, " R"]


def arrange(
    completions: Sequence[Completion],
    advantages: np.ndarray,
    scale: np.ndarray,
    widths: Sequence[int],
    tokens_at_once: int,
) -> list[Rows]:
    """Sorts answers by length into rows of few static shapes.

    Args:
      completions: Of a minibatch.
      advantages: Of each.
      scale: What a token of each weighs in the loss.
      widths: The widths that there are, in tokens.
      tokens_at_once: Rows of a width are as many as make this many tokens.

    Returns:
      Chunks; rows that are only padding weigh nothing.

    Raises:
      ConfigError: An answer with its prompt is longer than the widest row.
    """
    lengths = [len(c.prompt_tokens) + len(c.tokens) for c in completions]
    if max(lengths, default=0) > max(widths):
        raise ConfigError(
            f"a prompt and its answer have {max(lengths)} tokens",
            f"the widest rows of an update have {max(widths)}",
            "add a larger width, or lower max_tokens",
        )
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    chunks = []
    for narrower, width in zip((0, *sorted(widths)), sorted(widths), strict=False):
        here = [i for i in order if narrower < lengths[i] <= width]
        rows = max(1, tokens_at_once // width)
        for start in range(0, len(here), rows):
            chosen = here[start : start + rows]
            mine = [completions[i] for i in chosen]
            chunks.append(_rows(mine, advantages[chosen], scale[chosen], rows, width))
    return chunks


def _rows(
    completions: Sequence[Completion],
    advantages: np.ndarray,
    scale: np.ndarray,
    rows: int,
    width: int,
) -> Rows:
    each = []
    old = np.zeros((rows, width), np.float32)
    for row, c in enumerate(completions):
        prompt, answer = list(c.prompt_tokens), list(c.tokens)
        marks = [0.0] * len(prompt) + [1.0] * len(answer)
        alone = pack([Example(prompt + answer, marks)], width, 1)
        each.append(alone)
        old[row, len(prompt) : len(marks)] = c.logprobs
    each += [pack([], width, 1)] * (rows - len(each))
    packed = jax.tree.map(lambda *parts: np.concatenate(parts), *each)
    spare = (0, rows - len(completions))
    padded = [np.pad(x.astype(np.float32), spare) for x in (advantages, scale)]
    return Rows(packed, old, *padded)  # type: ignore[arg-type]
