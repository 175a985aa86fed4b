"""Reads thoughts as a stranger would, and finds what is wrong in them."""

import ast
import re

_EQUATION = re.compile(r"(\d+(?:[-+*]\d+)+)=(\d+)")
_TOO_LARGE = re.compile(r"(\d+[-+*]\d+)>99")
_RELATION = re.compile(r"(?<![-+*\d])(\d+)([<>=])(\d+)(?![-+*\d?])(?:: (\w+))?")
_HEADER = re.compile(r"\d+[-+*]\d+")
_COLUMN = re.compile(
    r"(?:\d[-\d]+, )?\d[-+*\d]*=\d+(?:, \d+\+\d=\d+)?, (\d+)(?: (?:\S+) (\d))?"
)
# Two numbers and no third, as whole expressions have.
_OPERATION = re.compile(r"(?<![-+*\d])(\d+)[-+*](\d+)(?![-+*\d])")


def value(expression: str) -> int:
    """Evaluates sums, differences and products; leading zeros are of no weight."""
    plain = re.sub(r"\b0+(?=\d)", "", expression)
    return eval(compile(ast.parse(plain, mode="eval"), "thought", "eval"))


def mistakes(thought: str) -> list[str]:
    """Returns the lines that are not so, as far as arithmetic tells."""
    wrong, header = [], None
    for line in thought.splitlines():
        right = all(value(left) == int(said) for left, said in _EQUATION.findall(line))
        right &= all(value(left) > 99 for left in _TOO_LARGE.findall(line))
        right &= all(
            {"<": int(x) < int(y), ">": int(x) > int(y), "=": int(x) == int(y)}[sign]
            == (said not in ("no", "nein"))
            for x, sign, y, said in _RELATION.findall(line)
        )
        if _HEADER.fullmatch(line):
            header = value(line)
        if line.startswith("="):
            # the difference itself; its sign was found above the columns
            right &= header is not None and abs(header) == abs(int(line[1:]))
        column = _COLUMN.fullmatch(line)
        if column and header is not None:
            result = column[1]
            right &= abs(header) % 10 ** len(result) == int(result)
        if not right:
            wrong.append(line)
    return wrong


def pairs(thought: str) -> set[tuple[int, int]]:
    """Returns all pairs of numbers that stand about a sign, the larger first."""
    found = {(int(x), int(y)) for x, y in _OPERATION.findall(thought)}
    return {(max(pair), min(pair)) for pair in found}
