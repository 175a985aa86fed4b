r"""Finds the final answer in what a model wrote, and compares answers.

Evaluation and the rewards of reinforcement learning share it. Without dependencies it
knows numbers, quantities with units, lists, tuples, sets, intervals and inequalities in
simple LaTeX; whoever has a computer algebra system hands it in as `leaf` and gets the
same comparison with every expression understood (`r1jax.evaluate.maths`).
"""

import re
from collections.abc import Callable, Sequence

from r1jax.text.latex import (
    as_number,
    as_quantity,
    as_words,
    head_of,
    intervals_of,
    plus_and_minus,
    split_top,
    tidy,
)
from r1jax.text.reasoning import CLOSE, split

Leaf = Callable[[str, str], bool | None]

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_CHOICE = re.compile(r"answer\W{0,6}:[\s*$]*(?:\\boxed\{|\\text\{)*\(?([A-J])\b", re.I)
_ONE_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).]?")
_OPENERS, _CLOSERS = "([⟦", ")]⟧"


def final_answer(text: str, thinking: bool | None = None) -> str | None:
    r"""Finds the last `\boxed{...}` outside the thoughts.

    Args:
      text: What a model wrote.
      thinking: Whether the prompt had opened the thoughts already. None: if and only if
        the text closes them.

    Returns:
      What is in the box; None without a box, with an empty one, or with boxes in the
      thoughts only. A box that is cut off before its end does not count.
    """
    content = answer_part(text, thinking)
    for start in reversed([found.end() for found in _BOX.finditer(content)]):
        inside = _braced(content, start)
        if inside is not None:
            return inside.strip() or None
    return None


def final_choice(text: str, thinking: bool | None = None) -> str | None:
    r"""Finds the letter of the last "ANSWER: B" line, else of the last box.

    Looks outside the thoughts only, as `final_answer` does. Gives a capital letter, or
    None.
    """
    found = _CHOICE.findall(answer_part(text, thinking))
    if found:
        return str(found[-1]).upper()
    boxed = final_answer(text, thinking)
    letter = _ONE_LETTER.fullmatch(tidy(boxed)) if boxed is not None else None
    return letter[1].upper() if letter else None


def answer_part(text: str, thinking: bool | None = None) -> str:
    """Returns what stands outside the thoughts; see `final_answer`."""
    return split(text, CLOSE in text if thinking is None else thinking)[1]


def equal(answer: str, truth: str) -> bool:
    """Tells whether an answer is the true one, as far as simple rules can tell."""
    return compare(answer, truth) is True


def compare(answer: str, truth: str, leaf: Leaf | None = None) -> bool | None:
    r"""Compares an answer with the true one.

    Numbers are compared exactly (0.5 is 1/2; 0.33 is not 1/3). A percentage equals both
    the bare number and the share; a missing unit is forgiven, a wrong one is not. Sets
    and bare lists have no order, tuples have. x < 2 is (-\infty, 2).

    Args:
      answer: What was answered.
      truth: What is true.
      leaf: Compares single expressions that the rules here do not know.

    Returns:
      None where nobody knows.
    """
    a, t = tidy(answer), tidy(truth)
    a, t = _without_heads(a, t)
    if _bare(a) == _bare(t):
        return bool(_bare(t))
    letters = [_ONE_LETTER.fullmatch(text) for text in (a, t)]
    if letters[0] and letters[1]:
        return letters[0][1] == letters[1][1]
    for known in (_as_words, _as_quantities, _as_intervals):
        verdict = known(a, t)
        if verdict is not None:
            return verdict
    return _collections(a, t, leaf or (lambda answer, truth: None))


def _braced(text: str, start: int) -> str | None:
    """Gives the text from `start` to the brace that closes the one before it."""
    depth, at = 1, start
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
        at += 1
    return None


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _without_heads(a: str, t: str) -> tuple[str, str]:
    """Drops "x =" where the other side has the same, or nothing of the kind."""
    (head_a, rest_a), (head_t, rest_t) = head_of(a), head_of(t)
    if head_a == head_t or not ((head_a and "=" in t) or (head_t and "=" in a)):
        return rest_a, rest_t
    return a, t


def _as_words(a: str, t: str) -> bool | None:
    """Compares words, which algebra would take for products of letters."""
    words_a, words_t = as_words(a), as_words(t)
    if words_a is None or words_t is None:
        if words_t is not None and as_number(_bare(a)) is not None:
            return False
        return None
    return words_a == words_t


def _as_quantities(a: str, t: str) -> bool | None:
    """Compares numbers, with percent signs and units."""
    one, other = as_quantity(a), as_quantity(t)
    if one is None or other is None:
        return None
    if one.unit == other.unit:
        return one.value == other.value
    if "%" in (one.unit, other.unit):
        share, number = (one, other) if one.unit == "%" else (other, one)
        if number.unit:
            return False
        return number.value in (share.value, share.value / 100)
    if one.unit and other.unit:
        return False
    return one.value == other.value


def _as_intervals(a: str, t: str) -> bool | None:
    """Compares what only differs in the way a set of reals is written."""
    one, other = intervals_of(a), intervals_of(t)
    if one is None or other is None:
        return None
    if one == other:
        return True
    known = all(end is not None for each in (*one, *other) for end in each.ends)
    return False if known else None


def _collections(a: str, t: str, leaf: Leaf) -> bool | None:
    """Compares element by element where there are several, else asks the leaf."""
    (kind_a, parts_a), (kind_t, parts_t) = _parts(a), _parts(t)
    if len(parts_a) == len(parts_t) == 1 and kind_a == kind_t == "":
        return leaf(a, t)
    unordered = {kind_a, kind_t} <= {"", "⟦⟧"}
    if kind_a != kind_t and not unordered and "" not in (kind_a, kind_t):
        return False
    if not unordered and "" in (kind_a, kind_t) and {kind_a, kind_t} != {"", "()"}:
        return leaf(a, t) if 1 in (len(parts_a), len(parts_t)) else False
    if unordered:
        return _any_order(parts_a, parts_t, leaf)
    if len(parts_a) != len(parts_t):
        return False
    pairs = zip(parts_a, parts_t, strict=True)
    return _all([compare(one, other, leaf) for one, other in pairs])


def _parts(text: str) -> tuple[str, list[str]]:
    """Gives the brackets around a collection, "" for a bare list, and its elements."""
    kind = ""
    if len(text) > 1 and text[0] in _OPENERS and text[-1] in _CLOSERS:
        inside = split_top(text[1:-1], ",")
        bracketed = len(inside) > 1 or text[0] == "⟦"
        if bracketed and len(split_top(text, ",")) == 1:
            kind, text = text[0] + text[-1], text[1:-1]
    parts = split_top(text, ",")
    if not kind:
        parts = [piece for part in parts for piece in split_top(part, " and ")]
    if kind in ("", "⟦⟧"):
        parts = [each for part in parts for each in plus_and_minus(part)]
    return kind, [part.strip() for part in parts if part.strip()]


def _any_order(
    answers: Sequence[str], truths: Sequence[str], leaf: Leaf
) -> bool | None:
    """Pairs each true element with an answered one."""
    if len(answers) != len(truths):
        return False
    left, unsure = list(answers), False
    for truth in truths:
        verdicts = [compare(answer, truth, leaf) for answer in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unsure = True
        else:
            return False
    return None if unsure else True


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True
