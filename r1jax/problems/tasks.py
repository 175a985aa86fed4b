"""The tasks: each draws operands, writes the thought and knows the answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from r1jax.problems import columns, countdown, stories
from r1jax.problems.columns import WORDS, Thought
from r1jax.problems.phrasings import PHRASINGS, Phrasings
from r1jax.problems.problem import Countdown, Language
from r1jax.problems.split import numbers_key

LONGEST = 4  # digits of an operand
_OPERATIONS = {"+": columns.add, "-": columns.subtract, "*": columns.multiply}
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
_EQUAL: dict[Language, str] = {"en": "equal", "de": "gleich"}
_YES: dict[Language, str] = {"en": "yes", "de": "ja"}
_NO: dict[Language, str] = {"en": "no", "de": "nein"}
_COMPARISONS = ("larger", "larger", "smaller", "is-larger", "is-smaller")


@dataclass(frozen=True)
class Draft:
    """A problem before it is put into words: see `Problem` for most of it.

    Attributes:
        ways: how it may be asked.
        fields: what the templates' names stand for; `e` is still to be spelt.
    """

    ways: Phrasings
    fields: dict[str, str]
    thought: Thought
    answer: str
    key: str
    check: Countdown | None = None


class _Form(NamedTuple):
    """An expression of two steps; `r` is what the first step makes."""

    text: str
    first: str
    second: str


_FORMS = (
    _Form("a+b*c", "b*c", "a+r"),
    _Form("a*b+c", "a*b", "r+c"),
    _Form("a-b*c", "b*c", "a-r"),
    _Form("a*b-c", "a*b", "r-c"),
    _Form("(a+b)*c", "a+b", "r*c"),
    _Form("(a-b)*c", "a-b", "r*c"),
    _Form("a*(b+c)", "b+c", "a*r"),
    _Form("a*(b-c)", "b-c", "a*r"),
    _Form("a+b+c", "a+b", "r+c"),
    _Form("a+b-c", "a+b", "r-c"),
    _Form("a-b+c", "a-b", "r+c"),
    _Form("a-b-c", "a-b", "r-c"),
    _Form("a-(b+c)", "b+c", "a-r"),
)


def _number(rng: random.Random, digits: int, low: int = 0) -> int:
    """Draws a number of one to `digits` digits, each length as likely."""
    length = rng.randint(1, digits)
    return rng.randint(
        max(low, 10 ** (length - 1) if length > 1 else 0), 10**length - 1
    )


def _binary(
    task: str, rng: random.Random, language: Language, sizes: tuple[int, int]
) -> Draft:
    """Makes one sum, difference or product of two numbers."""
    a, b = _number(rng, sizes[0]), _number(rng, sizes[1])
    thought = Thought(WORDS[language])
    thought.say(getattr(thought.words, task).format(f"{a}{_SIGNS[task]}{b}"))
    answer = _OPERATIONS[_SIGNS[task]](thought, a, b)
    fields = {"a": str(a), "b": str(b), "e": f"{a}{_SIGNS[task]}{b}"}
    ways = PHRASINGS[task][language]
    return Draft(ways, fields, thought, str(answer), numbers_key(a, b))


def _add(rng: random.Random, language: Language, digits: int) -> Draft:
    return _binary("add", rng, language, (digits, digits))


def _subtract(rng: random.Random, language: Language, digits: int) -> Draft:
    return _binary("subtract", rng, language, (digits, digits))


def _multiply(rng: random.Random, language: Language, digits: int) -> Draft:
    sizes = [min(3, digits), min(2, digits)]
    rng.shuffle(sizes)
    return _binary("multiply", rng, language, (sizes[0], sizes[1]))


def _compare(rng: random.Random, language: Language, digits: int) -> Draft:
    a, b = _number(rng, digits), _number(rng, digits)
    if rng.random() < 0.3:  # they differ in a late digit, or not at all
        b = a - a % 10 + rng.randint(0, 9)
    kind = rng.choice(_COMPARISONS)
    thought = Thought(WORDS[language])
    words = thought.words
    if kind in ("larger", "smaller"):
        asked = words.larger if kind == "larger" else words.smaller
        chosen = max(a, b) if kind == "larger" else min(a, b)
        answer = _EQUAL[language] if a == b else str(chosen)
        thought.say(words.compare.format(f"{asked}: {a}, {b}?"))
    else:
        asked = f"{a}{'>' if kind == 'is-larger' else '<'}{b}"
        true = a > b if kind == "is-larger" else a < b
        answer = _YES[language] if true else _NO[language]
        thought.say(words.compare.format(f"{asked}?"))
    columns.compare(thought, a, b)
    thought.say(f"{asked}: {answer}")
    fields = {"a": str(a), "b": str(b)}
    return Draft(PHRASINGS[kind][language], fields, thought, answer, numbers_key(a, b))


def _two_step(rng: random.Random, language: Language, digits: int) -> Draft:
    form = rng.choice(_FORMS)
    values = {letter: _number(rng, min(3, digits)) for letter in "abc"}
    if "*" in form.text:
        small, large = rng.sample([x for x in form.first if x in values], 2)
        if "*" in form.first:
            values[small] = _number(rng, min(digits, rng.choice((1, 1, 1, 2))))
            values[large] = _number(rng, min(2, digits))
        else:
            other = next(x for x in form.second if x in values)
            values[small] = _number(rng, min(2, digits))
            values[large] = _number(rng, min(2, digits))
            values[other] = _number(rng, 1)
    x, sign, y = list(form.first)
    if sign == "-" and values[x] < values[y]:
        values[x], values[y] = values[y], values[x]
    key = numbers_key(*values.values())
    expression = "".join(str(values.get(letter, letter)) for letter in form.text)
    thought = Thought(WORDS[language])
    step = f"{values[x]}{sign}{values[y]}"
    thought.say(f"{expression}. {thought.words.first} {step}.")
    values["r"] = _OPERATIONS[sign](thought, values[x], values[y])
    x, sign, y = list(form.second)
    thought.say(f"{thought.words.then} {values[x]}{sign}{values[y]}.")
    answer = _OPERATIONS[sign](thought, values[x], values[y])
    ways = PHRASINGS["two-step"][language]
    return Draft(ways, {"e": expression}, thought, str(answer), key)


def _word(rng: random.Random, language: Language, digits: int) -> Draft:
    operation = rng.choice(tuple(_SIGNS))
    if operation == "multiply":
        size = min(2, digits)
        a, b = rng.randint(2, min(20, 10**size - 1)), _number(rng, size, 2)
    else:
        size = min(3, digits)
        a, b = _number(rng, size, 2), _number(rng, size, 2)
    if operation == "subtract":
        a, b = max(a, b), min(a, b)
    thought = Thought(WORDS[language])
    insight = stories.INSIGHTS[operation][language]
    thought.say(f"{insight} {a}{_SIGNS[operation]}{b}")
    answer = _OPERATIONS[_SIGNS[operation]](thought, a, b)
    fields = {"a": str(a), "b": str(b), "name": rng.choice(stories.NAMES)}
    fields["things"] = rng.choice(stories.THINGS[language])
    ways = stories.STORIES[operation][language]
    return Draft(ways, fields, thought, str(answer), numbers_key(a, b))


def _countdown(rng: random.Random, language: Language, digits: int) -> Draft:
    """Makes a search; its numbers are small whatever `digits` allows."""
    problem = countdown.draw(rng)
    thought = Thought(WORDS[language])
    answer = countdown.solve(thought, problem, language)
    x, y, z = map(str, rng.sample(problem.numbers, 3))
    last = rng.choice((", ", " and " if language == "en" else " und "))
    fields = {"n": f"{x}, {y}{last}{z}", "t": str(problem.target)}
    key = f"{numbers_key(*problem.numbers)}={problem.target}"
    ways = PHRASINGS["countdown"][language]
    return Draft(ways, fields, thought, answer, key, problem)


DRAFTS: dict[str, Callable[[random.Random, Language, int], Draft]] = {
    "add": _add,
    "subtract": _subtract,
    "compare": _compare,
    "multiply": _multiply,
    "two-step": _two_step,
    "word": _word,
    "countdown": _countdown,
}
TASKS = tuple(DRAFTS)
