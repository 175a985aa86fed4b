"""Judgement through algebra is right on every pair, and cannot hang or kill."""

import sys

import pytest

from evaluate.answer_pairs import PAIRS
from r1jax.evaluate.maths import Judges
from r1jax.text.answers import equal, final_answer

HANGS = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    answer, truth = json.loads(line)
    if answer == "hang":
        time.sleep(60)
    if answer == "die":
        sys.exit(1)
    print(json.dumps({"correct": answer == truth, "note": ""}), flush=True)
"""


def answered(wrote):
    return wrote[1:] if wrote.startswith("=") else final_answer(wrote)


@pytest.fixture(scope="module")
def judges():
    pytest.importorskip("math_verify")
    with Judges(workers=1) as judges:
        yield judges


def test_two_hundred_pairs_are_judged_as_a_mathematician_would(judges):
    assert len(PAIRS) >= 200
    pairs = [(answered(wrote), truth) for wrote, truth, _ in PAIRS]
    verdicts = judges.judge(pairs)
    judged = zip(PAIRS, verdicts, strict=True)
    assert [pair for pair, verdict in judged if verdict.correct != pair[2]] == []


def test_the_simple_rules_alone_call_nothing_equal_that_is_not():
    wrong = [(answered(wrote), truth) for wrote, truth, right in PAIRS if not right]
    assert not [pair for pair in wrong if pair[0] is not None and equal(*pair)]


def test_the_simple_rules_alone_know_most_of_the_pairs():
    known = [
        equal(answer, truth)
        for wrote, truth, right in PAIRS
        if right and (answer := answered(wrote)) is not None
    ]
    assert sum(known) / len(known) > 0.7


def test_a_huge_power_costs_one_verdict_and_nothing_else(judges):
    first, second = judges.judge([("9^{9^{9^{9}}}", "x"), ("\\sqrt{4}", "2")])
    assert not first.correct
    assert second.correct


def test_no_answer_is_wrong_and_says_so(judges):
    [verdict] = judges.judge([(None, "2")])
    assert not verdict.correct
    assert verdict.note == "no answer"


def test_a_comparison_that_hangs_or_dies_is_false_with_a_note():
    pairs = [("1", "1"), ("hang", "1"), ("2", "2"), ("die", "1"), ("3", "3")]
    command = [sys.executable, "-c", HANGS]
    with Judges(workers=1, timeout=0.5, command=command) as judges:
        verdicts = judges.judge(pairs)
    assert [verdict.correct for verdict in verdicts] == [True, False, True, False, True]
    assert "more than 0.5 s" in verdicts[1].note
    assert "ended its process" in verdicts[3].note
