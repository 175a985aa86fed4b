r"""Reads simple LaTeX as answers are written in: numbers, quantities, sets of reals.

`tidy` brings a text into the one form that everything else here expects: no dollar
signs, no spacing commands, `\frac{a}{b}`, `\leq`, `⟦ ⟧` for the braces of sets, and
words where `\text{...}` was.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

# In this order. A replacement ends in a blank where letters may follow.
_REPLACED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\\$|\$|\\\(|\\\)|\\\[|\\\]|€|£", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
        (r"\{,\}", ","),
        (
            r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![a-z])|\\(?:display|text)style(?![a-z])",
            " ",
        ),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\l?brace(?![a-z])|\\\{", "⟦"),
        (r"\\rbrace(?![a-z])|\\\}", "⟧"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree(?![a-z])", " degrees "),
        (r"\\%", "%"),
        (r"\\(?:leqslant|leq|le)(?![a-z])|≤|<=", r"\\leq "),
        (r"\\(?:geqslant|geq|ge)(?![a-z])|≥|>=", r"\\geq "),
        (r"\\lt(?![a-z])", "<"),
        (r"\\gt(?![a-z])", ">"),
        (r"\\neq?(?![a-z])|≠", r"\\neq "),
        (r"\\(?:cdot|times)(?![a-z])|×|·", "*"),
        (r"−|–", "-"),
        (r"±", r"\\pm "),
        (r"∞|\\infin(?![a-z])", r"\\infty "),
        (r"∪", r"\\cup "),
        (r"\bor\b|\\text\s*\{\s*or\s*\}|\\lor(?![a-z])|\\vee(?![a-z])", " or "),
        (r"π", r"\\pi "),
        (r"√", r"\\sqrt "),
        (r"\\sqrt\s*(\d|[a-z])(?![\d.])", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*(\{)", r"\\frac{\1}\2"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\+\s*\\infty", r"\\infty"),
    )
)
_WORDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname)\s*"
    r"\{([^{}]*)\}"
)
_HEAD = re.compile(
    r"\s*(\\?[a-zA-Z](?:_\{?\w+\}?)?|\\?[a-zA-Z]+\s*\([a-z,\s]*\)|[a-z]{3,12})"
    r"\s*(?:=|\\in(?![a-z]))\s*(.+)",
    re.S,
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(rf"[+-]?{_DIGITS}")
_SLASHED = re.compile(rf"([+-]?)\(?([+-]?{_DIGITS})/([+-]?{_DIGITS})\)?")
_STACKED = re.compile(r"([+-]?)(\d*)\\frac\{([^{}]+)\}\{([^{}]+)\}")
_POWER = re.compile(rf"(?:([+-]?{_DIGITS})\*)?(\d+)\^(?:\{{([+-]?\d+)\}}|(\d))")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})")
_MIXED = re.compile(r"([+-]?)(\d+)\s+(\d+)/(\d+)")
_QUANTITY = re.compile(
    r"(.*?[\d}.)])\s*(%|percent\b|[a-zA-Z][a-zA-Z\s/.]*)?(\^.*)?", re.S
)
_WORDS_ONLY = re.compile(r"[a-zA-ZäöüßÄÖÜ][a-zA-ZäöüßÄÖÜ\s'-]*\.?")
_LEAST_WORD = 4  # letters: fewer may be a product of variables
_BIGGEST_POWER = 400
_NUMBER_LENGTH = 400  # characters
_RELATION = re.compile(r"(<|>|\\leq|\\geq|\\neq)")
_REALS = re.compile(r"\\mathbb\s*\{?R\}?|\\R|ℝ|all real numbers|reals", re.I)


@dataclass(frozen=True)
class Quantity:
    """A number, exactly, with its unit ("" for none)."""

    value: Fraction
    unit: str


@dataclass(frozen=True)
class Interval:
    """A stretch of reals: its ends as text, and whether they belong to it.

    Attributes:
      ends: Numbers, minus and plus infinity as floats, or None where they are no
        numbers; those are told apart by `texts`.
    """

    ends: tuple[Fraction | float | None, Fraction | float | None]
    closed: tuple[bool, bool]
    texts: tuple[str, str]


def tidy(text: str) -> str:
    """Brings an answer into the one form that this module reads."""
    text = text.strip()
    if "\\text" in text or "\\m" in text or "\\op" in text:
        text = _WORDS.sub(r" \1 ", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    text = text.strip().rstrip(".").strip()
    while text.startswith("{") and text.endswith("}") and _encloses(text):
        text = text[1:-1].strip()
    return text


def head_of(text: str) -> tuple[str, str]:
    r"""Parts "x = 5" or "x \in [0, 1]" into ("x", "5"); ("", text) without a head."""
    found = _HEAD.fullmatch(text)
    if not found or re.search(r"=|\\in(?![a-z])", found[2]):
        return "", text
    return re.sub(r"\s", "", found[1]), found[2].strip()


def split_top(text: str, separator: str) -> list[str]:
    """Splits outside of all brackets."""
    parts, depth, start = [], 0, 0
    if separator == "," and _PLAIN.fullmatch(re.sub(r"\s*\\?%?$", "", text)):
        return [text]  # 1,000 is one number
    for at, letter in enumerate(text):
        depth += (letter in "([{⟦") - (letter in ")]}⟧")
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at + len(separator)
    return [*parts, text[start:]]


def plus_and_minus(text: str) -> list[str]:
    r"""Writes "a \pm b" as the two that it means."""
    if text.count("\\pm") != 1:
        return [text]
    before, after = re.split(r"\s*\\pm\s*", text)
    return [f"{before}+{after}" if before.strip() else after, f"{before}-{after}"]


def as_words(text: str) -> str | None:
    """Returns words in lower case; None for what may be mathematics."""
    if not _WORDS_ONLY.fullmatch(text):
        return None
    words = text.lower().rstrip(".").split()
    long = any(len(word) >= _LEAST_WORD for word in words) or len(words) > 1
    return " ".join(words) if long or words == ["yes"] or words == ["no"] else None


def as_number(text: str) -> Fraction | None:
    """Reads an integer, decimal, fraction, mixed number or power of integers."""
    if len(text) > _NUMBER_LENGTH:
        return None
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and _PLAIN.fullmatch(text[1:-1]):
        text = text[1:-1]
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, above, below = mixed.groups()
        return _signed(sign, int(whole), _ratio(int(above), int(below)))
    text = re.sub(r"\s+", "", text)
    if _PLAIN.fullmatch(text):
        return _plain(text)
    if found := _SLASHED.fullmatch(text):
        value = _ratio(_plain(found[2]), _plain(found[3]))
        return _signed(found[1], 0, value)
    if found := _STACKED.fullmatch(text):
        above, below = as_number(found[3]), as_number(found[4])
        if above is None or below is None:
            return None
        return _signed(found[1], int(found[2] or 0), _ratio(above, below))
    return _powered(text)


def as_quantity(text: str) -> Quantity | None:
    """Reads a number with a percent sign or a unit behind it, or without."""
    number = as_number(text)
    if number is not None:
        return Quantity(number, "")
    found = _QUANTITY.fullmatch(text)
    number = as_number(found[1]) if found else None
    if not found or number is None or not found[2]:
        return None
    return Quantity(number, _unit(found[2], found[3] or ""))


def intervals_of(text: str) -> frozenset[Interval] | None:
    r"""Reads intervals, unions of them, and inequalities in one variable.

    Returns:
      None for anything else, such as a pair of numbers in round brackets only: that may
      be a point, and is compared as one.
    """
    if _REALS.fullmatch(text):
        return frozenset([_interval("(", "-\\infty", "\\infty", ")")])
    pieces = [piece for part in text.split(" or ") for piece in part.split("\\cup")]
    found: list[Interval] = []
    for piece in pieces:
        read = _bracketed(piece.strip()) or _inequality(piece.strip())
        if read is None:
            return None
        found.extend(read)
    return frozenset(found)


def _encloses(text: str) -> bool:
    """Tells whether the first brace is closed by the last one."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return at == len(text) - 1
    return False


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip(".") or "0")


def _ratio(above: Fraction | int, below: Fraction | int) -> Fraction | None:
    return Fraction(above) / Fraction(below) if below else None


def _signed(sign: str, whole: int, part: Fraction | None) -> Fraction | None:
    if part is None:
        return None
    return -(whole + part) if sign == "-" else whole + part


def _powered(text: str) -> Fraction | None:
    if found := _SCIENTIFIC.fullmatch(text):
        return Fraction(found[1]) * Fraction(10) ** int(found[2])
    found = _POWER.fullmatch(text)
    if not found:
        return None
    exponent, base = int(found[3] or found[4]), int(found[2])
    if abs(exponent) > _BIGGEST_POWER or (base == 0 and exponent < 0):
        return None
    return _plain(found[1] or "1") * Fraction(base) ** exponent


def _unit(name: str, power: str) -> str:
    """Gives one name to a unit's spellings."""
    if name in ("%", "percent"):
        return "%"
    name = re.sub(r"\s+", " ", name.strip().rstrip(".").lower())
    name = _UNITS.get(name) or _UNITS.get(
        name.removesuffix("s"), name.removesuffix("s")
    )
    power = re.sub(r"[\^{}\s]", "", power)
    for prefix, number in (("square ", "2"), ("cubic ", "3")):
        if name.startswith(prefix):
            name, power = _unit(name.removeprefix(prefix), ""), number
    return name + (f"^{power}" if power else "")


_UNITS = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "millimeter": "mm", "millimetre": "mm",
    "inche": "in", "inch": "in", "feet": "ft", "foot": "ft", "yard": "yd",
    "mile": "mi", "gram": "g", "kilogram": "kg", "second": "s", "sec": "s",
    "minute": "min", "hour": "h", "hr": "h", "degree": "°", "deg": "°",
    "dollar": "$", "usd": "$", "cent": "cent", "liter": "l", "litre": "l",
    "units": "unit", "mph": "mi/h", "mile per hour": "mi/h", "miles per hour": "mi/h",
}  # fmt: skip


def _bracketed(text: str) -> list[Interval] | None:
    r"""Reads "[a, b)"; round brackets only where an end is infinite."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = split_top(text[1:-1], ",")
    if len(ends) != 2:
        return None
    plain = text[0] + text[-1] in ("()", "[]")
    if plain and "\\infty" not in text:
        return None
    return [_interval(text[0], ends[0], ends[1], text[-1])]


def _inequality(text: str) -> list[Interval] | None:
    """Reads "x < 2", "3 > x", "0 < x <= 5" and "x != 1"."""
    parts = _RELATION.split(text)
    sides = [part.strip() for part in parts[::2]]
    signs = parts[1::2]
    variable = re.compile(r"\\?[a-zA-Z]+")
    if len(signs) == 1 and variable.fullmatch(sides[1]) and "\\infty" not in sides[1]:
        sides.reverse()
        signs = [_turned(signs[0])]
    if len(signs) == 1 and variable.fullmatch(sides[0]):
        return list(_one_sided(signs[0], sides[1]))
    if len(signs) != 2 or not variable.fullmatch(sides[1]) or "\\neq" in signs:
        return None
    low, _, high = sides
    if signs[0] in (">", "\\geq"):
        low, high, signs = high, low, [_turned(sign) for sign in reversed(signs)]
    if not all(sign in ("<", "\\leq") for sign in signs):
        return None
    left = "[" if signs[0] == "\\leq" else "("
    right = "]" if signs[1] == "\\leq" else ")"
    return [_interval(left, low, high, right)]


def _one_sided(sign: str, bound: str) -> Iterator[Interval]:
    if sign in ("<", "\\leq", "\\neq"):
        yield _interval("(", "-\\infty", bound, "]" if sign == "\\leq" else ")")
    if sign in (">", "\\geq", "\\neq"):
        yield _interval("[" if sign == "\\geq" else "(", bound, "\\infty", ")")


def _turned(sign: str) -> str:
    turned = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
    return turned.get(sign, sign)


def _interval(left: str, low: str, high: str, right: str) -> Interval:
    ends = (_end(low), _end(high))
    texts = tuple(
        re.sub(r"\s", "", text) if end is None else ""
        for text, end in zip((low, high), ends, strict=True)
    )
    return Interval(ends, (left == "[", right == "]"), (texts[0], texts[1]))


def _end(text: str) -> Fraction | float | None:
    bare = re.sub(r"\s", "", text)
    if bare in ("\\infty", "-\\infty"):
        return float(bare.replace("\\infty", "inf"))
    return as_number(text)
