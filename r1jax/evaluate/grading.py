"""Judges samples, and says which of them gave equal answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1jax.evaluate import sandbox
from r1jax.evaluate.maths import Judges, Verdict
from r1jax.evaluate.samples import Sample
from r1jax.evaluate.tasks import Item, Task
from r1jax.text.answers import answer_part, compare, final_answer, final_choice

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.S | re.I)


@dataclass(frozen=True)
class Grade:
    """What became of a sample.

    Attributes:
      correct: Whether it is right.
      answer: What was found in it; None for no answer.
      note: Why it could not be judged, or why code failed.
      vote: The number of its answer among its problem's; equal answers share one. None
        for no answer, and for code, where there is no telling.
    """

    correct: bool
    answer: str | None
    note: str
    vote: int | None


def grade(task: Task, samples: Mapping[Item, Sequence[Sample]]) -> list[list[Grade]]:
    """Judges each problem's samples, in the order given."""
    flat = [(item, sample) for item, several in samples.items() for sample in several]
    answers = [_answer(task, item, sample.content) for item, sample in flat]
    if task.judge == "maths":
        verdicts, votes = _by_algebra(flat, answers)
    else:
        verdicts = _verdicts(task, [item for item, _ in flat], answers)
        votes = _votes(flat, answers, {})
    if task.judge == "code":
        votes = [None] * len(flat)
    grades = iter(
        Grade(verdict.correct, answer, verdict.note, vote)
        for answer, verdict, vote in zip(answers, verdicts, votes, strict=True)
    )
    return [[next(grades) for _ in several] for several in samples.values()]


def code_of(content: str, item: Item) -> str | None:
    """Finds the program in an answer: its last block of Python.

    Where it does not define the function it is taken for the function's body.
    """
    blocks = _BLOCK.findall(answer_part(content))
    if not blocks:
        return None
    entry = re.search(r"check\((\w+)\)\s*$", item.truth)
    assert entry, item.key
    defined = re.search(rf"^def {entry[1]}\b", blocks[-1], re.M)
    # The prompt first: a function may need its imports and helpers.
    return (
        f"{item.extra}\n    pass\n\n{blocks[-1]}"
        if defined
        else item.extra + blocks[-1]
    )


def _answer(task: Task, item: Item, content: str) -> str | None:
    if task.judge == "choice":
        return final_choice(content)
    if task.judge == "code":
        return code_of(content, item)
    return final_answer(content)


def _verdicts(
    task: Task, items: Sequence[Item], answers: Sequence[str | None]
) -> list[Verdict]:
    """Judges what needs no algebra."""
    if task.judge == "code":
        given = zip(items, answers, strict=True)
        programs = [
            f"{a}\n\n{item.truth}" if a else "raise SystemExit" for item, a in given
        ]
        ran = sandbox.run_programs(programs)
        return [
            Verdict(outcome.passed, outcome.note if answer else "no answer")
            for answer, outcome in zip(answers, ran, strict=True)
        ]
    if task.judge == "problem":
        return [
            Verdict(answer is not None and bool(item.extra.accepts(answer)))
            for item, answer in zip(items, answers, strict=True)
        ]
    pairs = zip(items, answers, strict=True)
    return [Verdict(answer == item.truth) for item, answer in pairs]


def _by_algebra(
    flat: Sequence[tuple[Item, Sample]], answers: Sequence[str | None]
) -> tuple[list[Verdict], list[int | None]]:
    """Judges mathematics; the same pair is judged once only."""
    truths = [item.truth for item, _ in flat]
    with Judges() as judges:
        pairs = list(dict.fromkeys(zip(answers, truths, strict=True)))
        known = dict(zip(pairs, judges.judge(pairs), strict=True))
        verdicts = [known[pair] for pair in zip(answers, truths, strict=True)]
        doubtful = [
            (one, other)
            for one, other in _pairs_within(flat, answers)
            if compare(one, other) is None
        ]
        judged = judges.judge(doubtful)
    equal = {pair: v.correct for pair, v in zip(doubtful, judged, strict=True)}
    return verdicts, _votes(flat, answers, equal)


def _pairs_within(
    flat: Sequence[tuple[Item, Sample]], answers: Sequence[str | None]
) -> list[tuple[str, str]]:
    """Gives the pairs of different answers to the same problem."""
    by_item: dict[Item, list[str]] = {}
    for (item, _), answer in zip(flat, answers, strict=True):
        known = by_item.setdefault(item, [])
        if answer is not None and answer not in known:
            known.append(answer)
    return [
        (one, other)
        for known in by_item.values()
        for at, other in enumerate(known)
        for one in known[:at]
    ]


def _votes(
    flat: Sequence[tuple[Item, Sample]],
    answers: Sequence[str | None],
    equal: Mapping[tuple[str, str], bool],
) -> list[int | None]:
    """Numbers the answers of each problem; the first of equal ones stands for all."""
    votes: list[int | None] = []
    kinds: dict[Item, list[str]] = {}
    for (item, _), answer in zip(flat, answers, strict=True):
        if answer is None:
            votes.append(None)
            continue
        known = kinds.setdefault(item, [])
        for at, other in enumerate(known):
            same = answer == other or compare(other, answer)
            if equal.get((other, answer), False) if same is None else same:
                votes.append(at)
                break
        else:
            votes.append(len(known))
            known.append(answer)
    return votes
