"""Rejection sampling: a model's own right answers, to learn from again.

arXiv 2501.12948, section 2.3.3: several answers to a question, of which those are kept
that are right and readable. The lines that are written are what fine-tuning reads, so
the same makes a teacher's answers a student's lessons (section 2.4).
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1jax.errors import ConfigError
from r1jax.llm import LLM
from r1jax.text.reasoning import CLOSE, prompt_opens_thinking, split
from r1jax.train.rewards import Task, accuracy, form, language
from r1jax.train.rollout import Completion, Prompt, sample, tempered
from r1jax.typing import PyTree


@dataclass(frozen=True)
class Rules:
    """Which answers are kept.

    Attributes:
      samples: Answers asked to each question.
      keep: Most that are kept of one question, the shortest first; 0 for all.
      temperature: Of sampling.
      max_tokens: Most tokens of an answer; longer ones are dropped.
      language: The least share of words in the question's language.
    """

    samples: int = 16
    keep: int = 0
    temperature: float = 1.0
    max_tokens: int = 32768
    language: float = 1.0

    def __post_init__(self) -> None:
        """Refuses rules that keep nothing.

        Raises:
          ConfigError: Names the rules.
        """
        if min(self.samples, self.max_tokens, self.temperature) <= 0 or self.keep < 0:
            raise ConfigError(
                f"{self} cannot be followed",
                "samples, max_tokens and temperature must be above 0, keep not below",
                "choose them so",
            )


def ask(llm: LLM, tasks: Iterable[Task]) -> list[Prompt[Task]]:
    """Returns tasks as prompts by the model's chat template.

    Raises:
      TextError: There is no template.
    """
    prompts = []
    for task in tasks:
        text, _ = llm.render([{"role": "user", "content": task.question}])
        prompts.append(Prompt(task, tuple(llm.tokenizer.encode(text)), text))
    return prompts


def keep(
    llm: LLM,
    params: PyTree,
    prompts: Sequence[Prompt[Task]],
    rules: Rules,
    seed: int = 0,
) -> Iterator[tuple[Task, list[Completion]]]:
    """Yields each task with its answers that were kept, perhaps none; equal ones once.

    Args:
      llm: Samples; afterwards it is bound to `params`.
      params: Its weights.
      prompts: What is asked.
      rules: What is kept.
      seed: Of the sampling.
    """
    llm.bind(tempered(params, rules.temperature))
    try:
        groups = sample(
            llm,
            prompts,
            lambda task, completion: _judge(task, completion, rules),
            group=rules.samples,
            max_tokens=rules.max_tokens,
            seed=seed,
        )
    finally:
        llm.bind(params)
    for prompt, group in zip(prompts, groups, strict=True):
        good = {j.completion.text: j.completion for j in group if j.rewards["reward"]}
        shortest = sorted(good.values(), key=lambda c: len(c.tokens))
        yield prompt.task, shortest[: rules.keep or None]


def _judge(task: Task, completion: Completion, rules: Rules) -> dict[str, float]:
    good = (
        form(task, completion)
        and accuracy(task, completion)
        and language(task, completion) >= rules.language
    )
    return {"reward": float(good)}


def as_messages(task: Task, completion: Completion) -> list[dict[str, Any]]:
    """Returns a question and a kept answer as a conversation, thoughts apart."""
    opened = prompt_opens_thinking(completion.prompt) or CLOSE in completion.text
    thought, content = split(completion.text, opened)
    return [
        {"role": "user", "content": task.question},
        {
            "role": "assistant",
            "reasoning_content": (thought or "").strip(),
            "content": content.strip(),
        },
    ]


def write(
    path: str | os.PathLike[str], kept: Iterable[tuple[Task, list[Completion]]]
) -> int:
    """Writes kept answers as JSON lines of messages; the file is there when complete.

    Returns:
      How many lines.

    Raises:
      ConfigError: The file exists, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise ConfigError(
            f"{path} exists",
            "it may hold answers that took long to sample",
            "name another file, or move it away",
        )
    partial, count = path.with_name(path.name + ".partial"), 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for task, answers in kept:
                for answer in answers:
                    line = {"messages": as_messages(task, answer)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count += 1
    except OSError as error:
        raise ConfigError(
            f"{partial} cannot be written",
            str(error),
            "make room, or name a file in a folder that can be written to",
        ) from error
    partial.replace(path)
    return count
