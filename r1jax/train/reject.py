"""Rejection sampling: which answers of a model are kept, to learn from.

arXiv 2501.12948, section 2.3.3: several answers to a question, of which those are kept
that are right and readable. The lines that are written are what fine-tuning reads, so
the same makes a teacher's answers a student's lessons (section 2.4).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1jax.errors import ConfigError
from r1jax.llm import LLM
from r1jax.text.reasoning import CLOSE, prompt_opens_thinking, split
from r1jax.train.rewards import Task, accuracy, form, language
from r1jax.train.rollout import Completion, Ended, Prompt, each_ended, tempered
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


def answers(
    llm: LLM,
    params: PyTree,
    prompts: Mapping[int, Prompt[Task]],
    rules: Rules,
    seed: int = 0,
) -> Ended:
    """Samples answers to each prompt.

    Args:
      llm: Samples; bound to `params` when all have ended.
      params: Its weights.
      prompts: What is asked, by numbers of the caller's.
      rules: How many answers, and how they are sampled.
      seed: Of the sampling.

    Yields:
      As `rollout.each_ended`.
    """
    llm.bind(tempered(params, rules.temperature))
    size, most = rules.samples, rules.max_tokens
    yield from each_ended(llm, prompts, group=size, max_tokens=most, seed=seed)
    llm.bind(params)


def whole_groups(
    ended: Iterable[tuple[int, int, Completion]], size: int
) -> Iterator[tuple[int, list[Completion]]]:
    """Yields each question's number with its answers in order, when all have ended."""
    groups: dict[int, dict[int, Completion]] = {}
    for number, place, completion in ended:
        group = groups.setdefault(number, {})
        group[place] = completion
        if len(group) == size:
            del groups[number]
            yield number, [group[g] for g in range(size)]


def keep(
    task: Task, group: Iterable[Completion], rules: Rules
) -> list[list[dict[str, Any]]]:
    """Returns answers to keep as conversations, the shortest first; equal ones once.

    Raises:
      ConfigError: The question's language is not known.
    """
    good = {c.text: c for c in group if _is_good(task, c, rules)}
    shortest = sorted(good.values(), key=lambda c: len(c.text))
    return [as_messages(task, c) for c in shortest[: rules.keep or None]]


def _is_good(task: Task, completion: Completion, rules: Rules) -> bool:
    return bool(
        form(task, completion)
        and accuracy(task, completion)
        and language(task, completion) >= rules.language
    )


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
