"""Arithmetic written out, so that every token follows from a few that stand near.

Each operation is a header ("347+085", both numbers equally long) and one line a column,
from the right: what the column makes, then the result so far, then what is carried.
The result so far stands on every line, so no number is ever read backwards. A column
of a difference is written down before it is known whether it borrows. Operations
append their lines, and the pairs of numbers they work on, to a `Thought`.
"""

from dataclasses import dataclass, field

from r1jax.problems.problem import Language
from r1jax.problems.split import Pair


@dataclass(frozen=True)
class Words:
    """The words of thoughts in one language."""

    add: str
    subtract: str
    multiply: str
    carry: str
    borrow: str
    compare: str
    larger: str
    smaller: str
    swap: str
    first: str
    then: str


WORDS: dict[Language, Words] = {
    "en": Words(
        add="Add {} from the right.",
        subtract="Subtract {} from the right.",
        multiply="Multiply {} digit by digit.",
        carry="carry",
        borrow="borrow",
        compare="{} Compare from the left.",
        larger="larger",
        smaller="smaller",
        swap="negative, swap",
        first="First",
        then="Then",
    ),
    "de": Words(
        add="Addiere {} von rechts.",
        subtract="Subtrahiere {} von rechts.",
        multiply="Multipliziere {} Ziffer um Ziffer.",
        carry="Übertrag",
        borrow="borge",
        compare="{} Vergleiche von links.",
        larger="größer",
        smaller="kleiner",
        swap="negativ, tausche",
        first="Zuerst",
        then="Dann",
    ),
}


@dataclass
class Thought:
    """A thought while it is written: its lines, and the pairs they work on."""

    words: Words
    lines: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Adds a line."""
        self.lines.append(line)

    def text(self) -> str:
        """Returns the lines as they are taught."""
        return "\n".join(self.lines)


def add(thought: Thought, a: int, b: int) -> int:
    """Adds column by column; returns the sum of two numbers, neither negative."""
    top, bottom = _aligned(a, b)
    thought.pairs.append((a, b))
    thought.say(f"{top}+{bottom}")
    carry, result = 0, ""
    for at in reversed(range(len(top))):
        total = int(top[at]) + int(bottom[at]) + carry
        column = f"{top[at]}+{bottom[at]}" + (f"+{carry}" if carry else "")
        carry, result = _written(thought, f"{column}={total}", total, result, at)
    return a + b


def subtract(thought: Thought, a: int, b: int) -> int:
    """Finds the sign, then the larger less the smaller; returns the difference."""
    thought.pairs.append((a, b))
    thought.say("{}-{}".format(*_aligned(a, b)))
    digits, sign = compared(a, b)
    if sign == "=":
        thought.say(digits)
        thought.say("=0")
        return 0
    thought.say(digits + (f", {thought.words.swap}" if sign == "<" else ""))
    top, bottom = _aligned(max(a, b), min(a, b))
    if sign == "<":
        thought.say(f"{top}-{bottom}")
    borrow, result = 0, ""
    for at in reversed(range(len(top))):
        column = f"{top[at]}-{bottom[at]}" + ("-1" if borrow else "")
        value = int(top[at]) - int(bottom[at]) - borrow
        borrow = int(value < 0)
        result = f"{value % 10}{result}"
        line = f"{column}, 1{column}" if borrow else column
        line += f"={value % 10}, {result}"
        thought.say(line + (f" {thought.words.borrow} 1" if borrow else ""))
    thought.say(f"={a - b}")
    return a - b


def multiply(thought: Thought, a: int, b: int) -> int:
    """Multiplies by each digit of the shorter number, then adds; returns the product.

    The shorter number has at most two digits.
    """
    a, b = (a, b) if len(str(a)) >= len(str(b)) else (b, a)
    thought.pairs.append((a, b))
    thought.say(f"{a}*{b}")
    if b == 0:
        thought.say("=0")
        return 0
    if b < 10:
        return _times_digit(thought, a, b, "")
    tens, units = divmod(b, 10)
    low = 0
    if units:
        thought.pairs.append((a, units))
        thought.say(f"{a}*{units}")
        low = _times_digit(thought, a, units, "")
    thought.pairs.append((a, tens * 10))
    thought.say(f"{a}*{tens}0")
    high = _times_digit(thought, a, tens, "0")
    return add(thought, low, high) if low else high


def compared(a: int, b: int) -> tuple[str, str]:
    """Compares digits from the left until they differ; returns them and the sign."""
    seen, sign = [], "="
    for x, y in zip(*_aligned(a, b), strict=True):
        sign = "=" if x == y else "<" if x < y else ">"
        seen.append(f"{x}{sign}{y}")
        if sign != "=":
            break
    return ", ".join(seen), sign


def compare(thought: Thought, a: int, b: int) -> str:
    """Compares two numbers; returns the sign between them."""
    digits, sign = compared(a, b)
    thought.pairs.append((a, b))
    thought.say("{} {}".format(*_aligned(a, b)))
    thought.say(digits)
    thought.say(f"{a}{sign}{b}")
    return sign


def _times_digit(thought: Thought, a: int, digit: int, result: str) -> int:
    """Multiplies by one digit; `result` is what stands to the right already."""
    carry, digits = 0, str(a)
    for at in reversed(range(len(digits))):
        total = int(digits[at]) * digit
        column = f"{digits[at]}*{digit}={total}"
        if carry:
            column += f", {total}+{carry}={total + carry}"
            total += carry
        carry, result = _written(thought, column, total, result, at)
    return int(result)


def _written(
    thought: Thought, column: str, total: int, result: str, at: int
) -> tuple[int, str]:
    """Writes a column's line; returns the carry and the result so far."""
    if at == 0:
        result = f"{total}{result}"
        thought.say(f"{column}, {result}")
        return 0, result
    carry, digit = divmod(total, 10)
    result = f"{digit}{result}"
    carried = f" {thought.words.carry} {carry}" if carry else ""
    thought.say(f"{column}, {result}{carried}")
    return carry, result


def _aligned(a: int, b: int) -> tuple[str, str]:
    """Returns both numbers with as many digits as the longer has."""
    width = max(len(str(a)), len(str(b)))
    return f"{a:0{width}}", f"{b:0{width}}"
