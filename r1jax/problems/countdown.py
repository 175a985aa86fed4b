"""Countdown with three small numbers: the search is the thought.

The numbers stand in falling order; for each of the three pairs a product, a sum and a
difference is tried, and what it makes is joined with the third number. What is over 99
is given up at once; a line without success ends in a word, and the search stops at the
first hit.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from r1jax.problems.columns import Thought
from r1jax.problems.problem import Countdown, Language

LARGEST = 15
_LIMIT = 99  # of every value, and so of the targets
_START: dict[Language, str] = {"en": "Search for", "de": "Suche"}
_FAILED: dict[Language, str] = {"en": "no", "de": "nein"}
_FOUND: dict[Language, str] = {"en": "yes", "de": "ja"}


class _Step(NamedTuple):
    """One operation of the search, and the expression that it completes."""

    x: int
    sign: str
    y: int
    value: int
    expression: str

    def text(self) -> str:
        shown = f"={self.value}" if self.value <= _LIMIT else f">{_LIMIT}"
        return f"{self.x}{self.sign}{self.y}{shown}"


def draw(rng: random.Random) -> Countdown:
    """Draws three different numbers, and a target that the search finds."""
    numbers = tuple(sorted(rng.sample(range(1, LARGEST + 1), 3), reverse=True))
    values = {step.value for _, seconds in _search(numbers) for step in seconds}
    targets = sorted(value for value in values if 0 < value <= _LIMIT)
    return Countdown(numbers, rng.choice(targets))


def solve(thought: Thought, problem: Countdown, language: Language) -> str:
    """Writes the search; returns the first expression that makes the target."""
    numbers = " ".join(map(str, problem.numbers))
    thought.say(f"{_START[language]} {problem.target}: {numbers}")
    for first, seconds in _search(problem.numbers):
        thought.pairs.append((first.x, first.y))
        line = first.text()
        for step in seconds:
            thought.pairs.append((step.x, step.y))
            line += f", {step.text()}"
            if step.value == problem.target:
                thought.say(f"{line} {_FOUND[language]}")
                thought.say(step.expression)
                return step.expression
        thought.say(f"{line} {_FAILED[language]}")
    raise AssertionError("targets are drawn from what the search finds")


def _search(numbers: tuple[int, ...]) -> Iterator[tuple[_Step, list[_Step]]]:
    """Yields each first step with the second steps that follow on it."""
    a, b, c = numbers
    for x, y, rest in ((a, b, c), (a, c, b), (b, c, a)):
        product = _Step(x, "*", y, x * y, f"{x}*{y}")
        small = product.value <= _LIMIT
        joined = [_sum(product, rest), _difference(product, rest)] if small else []
        yield product, joined
        total = _Step(x, "+", y, x + y, f"{x}+{y}")
        yield total, [_sum(total, rest), _difference(total, rest), _times(total, rest)]
        difference = _Step(x, "-", y, x - y, f"{x}-{y}")
        yield difference, [_times(difference, rest)]


def _sum(first: _Step, rest: int) -> _Step:
    value = first.value + rest
    return _Step(first.value, "+", rest, value, f"{first.expression}+{rest}")


def _difference(first: _Step, rest: int) -> _Step:
    """Takes the smaller from the larger, so that no value is negative."""
    value, inner = first.value, first.expression
    if value >= rest:
        return _Step(value, "-", rest, value - rest, f"{inner}-{rest}")
    inner = f"({inner})" if first.sign == "+" else inner
    return _Step(rest, "-", value, rest - value, f"{rest}-{inner}")


def _times(first: _Step, rest: int) -> _Step:
    value = first.value * rest
    return _Step(first.value, "*", rest, value, f"({first.expression})*{rest}")
