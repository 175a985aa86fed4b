"""Rewards by rule: is the answer right, is the form kept, is the language one.

arXiv 2501.12948, sections 2.2.2 and 2.3.2. A reward sees the end of the prompt too: a
chat template that opens <think> itself leaves the model only the closing tag to write.
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from r1jax.errors import ConfigError
from r1jax.text.answers import answer_part, final_answer
from r1jax.text.reasoning import CLOSE, OPEN, prompt_opens_thinking, split
from r1jax.train.rollout import Completion


class Task(Protocol):
    """What a reward needs of a problem; `r1jax.problems.Problem` is one."""

    @property
    def question(self) -> str:
        """What the user asks."""

    @property
    def language(self) -> str:
        """Of the question: "en" or "de"."""

    def accepts(self, answer: str) -> bool:
        """Tells whether a final answer is right."""


Reward = Callable[[Task, Completion], float]

# Words that are frequent in one language and none of the other.
_KNOWN = {
    "en": "the and is of to in we so then with from that this are first now have",
    "de": "der die das und ist von zu wir also dann mit aus den sind zuerst haben",
}
_TELLING = {name: frozenset(words.split()) for name, words in _KNOWN.items()}
_WORD = re.compile(r"[^\W\d_]+")
_MARKUP = re.compile(r"\\[a-zA-Z]+")  # LaTeX is of no language


def accuracy(task: Task, completion: Completion) -> float:
    """Returns 1 where the last box outside the thoughts holds a right answer."""
    answer = final_answer(completion.text, prompt_opens_thinking(completion.prompt))
    return float(answer is not None and task.accepts(answer))


def form(task: Task, completion: Completion) -> float:
    """Returns 1 where prompt and answer have one pair of thinking tags, in order.

    The thoughts come first, something is answered behind them, and the answer ended by
    itself.
    """
    opened = prompt_opens_thinking(completion.prompt)
    text = (OPEN if opened else "") + completion.text
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1 or completion.finish != "stop":
        return 0.0
    before, _, rest = text.partition(OPEN)
    thought, closed, answer = rest.partition(CLOSE)
    return float(
        bool(not before.strip() and closed and thought.strip() and answer.strip())
    )


def language(task: Task, completion: Completion) -> float:
    """Returns the share of the thought's words that are of the question's language.

    Only words that tell one known language from the others count; a thought without any
    is of the right one, for numbers have none.

    Raises:
      ConfigError: The question's language is not known.
    """
    if task.language not in _TELLING:
        raise ConfigError(
            f"a question is in {task.language!r}",
            f"words are known of {', '.join(_TELLING)}",
            "leave the reward 'language' out, or add the language's words",
        )
    opened = prompt_opens_thinking(completion.prompt) or CLOSE in completion.text
    thought = split(completion.text, opened)[0] or answer_part(completion.text)
    words = _WORD.findall(_MARKUP.sub(" ", thought).casefold())
    telling = [w for w in words if any(w in known for known in _TELLING.values())]
    if not telling:
        return 1.0
    return sum(w in _TELLING[task.language] for w in telling) / len(telling)


REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "format": form,
    "language": language,
}


def weighed(
    weights: Mapping[str, float], rewards: Mapping[str, Reward] = REWARDS
) -> Callable[[Task, Completion], dict[str, float]]:
    """Returns a function that gives each reward and, as "reward", their weighted sum.

    Args:
      weights: By the rewards' names; the paper adds accuracy and format equally.
      rewards: What there is to choose from.

    Raises:
      ConfigError: A name is none of the rewards, or nothing is rewarded.
    """
    unknown = sorted(set(weights) - set(rewards))
    if unknown or not any(weights.values()):
        raise ConfigError(
            f"rewards has {', '.join(unknown) or 'no weight other than 0'}",
            f"the rewards are {', '.join(rewards)}",
            "name at least one of them, with its weight",
        )

    def judge(task: Task, completion: Completion) -> dict[str, float]:
        each = {name: rewards[name](task, completion) for name in weights}
        return each | {"reward": sum(weights[n] * each[n] for n in weights)}

    return judge
