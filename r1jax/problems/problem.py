"""A problem, its thought and its answer, and how they become a conversation."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Language = Literal["en", "de"]
Split = Literal["train", "held-out"]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_SPELLINGS = {"\\times": "*", "\\cdot": "*", "×": "*", "·": "*", "−": "-"}  # noqa: RUF001
_EXPRESSION = re.compile(r"[\d+\-*() ]{1,64}")
SENTENCES = {"en": "The answer is \\boxed{%s}.", "de": "Die Antwort ist \\boxed{%s}."}


@dataclass(frozen=True)
class Countdown:
    """What answers of a countdown problem must do: make the target of the numbers."""

    numbers: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class Problem:
    """A question with a thought that solves it line by line.

    Attributes:
        task: one of `TASKS`.
        question: what the user asks.
        thought: lines that lead to the answer; each token follows from few before it.
        answer: the right answer, or one of them.
        language: of the question, the thought and the sentence that answers.
        key: what the split hashes: the operands, order-free.
        check: set where many answers are right.
    """

    task: str
    question: str
    thought: str
    answer: str
    language: Language
    key: str
    check: Countdown | None = None

    def accepts(self, answer: str) -> bool:
        """Tells whether an answer, without its box, is right."""
        if self.check is None:
            return answer.strip().casefold() == self.answer.casefold()
        for spelling, plain in _SPELLINGS.items():
            answer = answer.replace(spelling, plain)
        answer = answer.partition("=")[0].strip()
        if not _EXPRESSION.fullmatch(answer):
            return False
        try:
            tree = ast.parse(answer, mode="eval").body
            used: list[int] = []
            value = _evaluate(tree, used)
        except (SyntaxError, ValueError):
            return False
        return value == self.check.target and sorted(used) == sorted(self.check.numbers)


def as_messages(problem: Problem) -> list[dict[str, Any]]:
    """Returns the problem as a conversation of one question and one answer."""
    return [
        {"role": "user", "content": problem.question},
        {
            "role": "assistant",
            "reasoning_content": problem.thought,
            "content": SENTENCES[problem.language] % problem.answer,
        },
    ]


def _evaluate(node: ast.expr, used: list[int]) -> int:
    """Evaluates sums, differences and products, and notes the numbers used."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        used.append(node.value)
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, used), _evaluate(node.right, used)
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError("neither a number nor one of + - *")
