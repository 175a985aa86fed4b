"""Problems are right in every line, the same for a seed, and on one side of a split."""

import dataclasses
import re

import pytest

from problems.thoughts import mistakes, pairs, value
from r1jax.errors import ConfigError
from r1jax.problems import TASKS, Problem, as_messages, draw

NUMERIC = ("add", "subtract", "multiply", "two-step", "word")
EXPRESSION = re.compile(r"\d[\d+\-*() ]*\d")


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Problem]]:
    return {task: draw([task], 3000, 1, "train", "all") for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_every_line_of_every_thought_is_so(drawn, task):
    for problem in drawn[task]:
        assert mistakes(problem.thought) == [], problem


def test_the_checker_sees_a_wrong_line():
    thought = "047+085\n7+5=12, 2 carry 1\n4+8+1=13, 32 carry 1\n0+0+1=1, 132"
    assert mistakes(thought) == []
    for wrong in (
        *("7+5=13, 3", "4+8+1=13, 33", "0<0", "1=2", "20*4>99", "=-131"),
        *("4<8: no", "4>8: yes", "4-7, 14-7=8, 8 borrow 1", "9-7, 9-7=2, 3"),
    ):
        assert mistakes(f"{thought}\n{wrong}") == [wrong]


@pytest.mark.parametrize("task", NUMERIC)
def test_the_thought_ends_in_the_answer(drawn, task):
    for problem in drawn[task]:
        end = re.split(r"[ =+]", problem.thought.replace(" carry 1", ""))[-1]
        assert int(end) == int(problem.answer), problem


@pytest.mark.parametrize("task", ["add", "subtract", "multiply", "two-step"])
def test_a_question_with_an_expression_has_its_value_as_answer(drawn, task):
    signs = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*"})
    asked = 0
    for problem in drawn[task]:
        text = re.sub(r"(?<=\d)[,.](?=\d{3})", "", problem.question)
        text = re.sub(r"(?<=[\d)]) ?x ?(?=[\d(])", "*", text.lower())
        text = text.translate(signs)
        found = re.search(r"\(?\d+[)]?(?: *[-+*] *\(?\d+\)?)+", text)
        if found:
            asked += 1
            assert value(found[0]) == int(problem.answer), problem
    assert asked > 1000


def test_comparisons_are_answered_as_asked(drawn):
    kinds = set()
    for problem in drawn["compare"]:
        sign = re.search(r"\d([<>=])\d+$", problem.thought.splitlines()[-2])[1]
        assert problem.thought.endswith(f": {problem.answer}")
        kinds.add(problem.answer if not problem.answer.isdigit() else "number")
        if problem.answer in ("equal", "gleich"):
            assert sign == "="
    assert kinds == {"number", "yes", "no", "ja", "nein", "equal", "gleich"}


def test_larger_and_smaller_are_not_confused(drawn):
    words = {"larger": max, "größer": max, "smaller": min, "kleiner": min}
    seen = 0
    for problem in drawn["compare"]:
        for word, chosen in words.items():
            if word in problem.question and problem.answer.isdigit():
                seen += 1
                asked, aligned, *_, said = problem.thought.splitlines()
                assert asked.startswith(f"{word}: ")
                assert said.startswith(f"{word}: ")
                numbers = map(int, re.findall(r"\d+", aligned))
                assert int(problem.answer) == chosen(numbers), problem
    assert seen > 500


def test_countdown_answers_use_each_number_once(drawn):
    for problem in drawn["countdown"]:
        numbers = sorted(int(n) for n in re.findall(r"\d+", problem.answer))
        assert numbers == sorted(problem.check.numbers)
        assert value(problem.answer) == problem.check.target
        assert problem.thought.endswith(problem.answer)
        assert problem.accepts(problem.answer)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(7+8)*3", True),
        ("3 * (8 + 7)", True),
        ("3 × (8 + 7) = 45", True),
        ("3 \\cdot (8+7)", True),
        ("45", False),
        ("7+8*3", False),
        ("(7+8)*3*1", False),
        ("7*8-11", False),
        ("(7+8)*(3", False),
        ("(7+8)*3**1", False),
        ("__import__('os')", False),
        ("", False),
        ("(" * 200, False),
    ],
)
def test_countdown_accepts_what_makes_the_target(answer, right):
    problem = draw(["countdown"], 1, 0)[0]
    check = dataclasses.replace(problem.check, numbers=(8, 7, 3), target=45)
    assert dataclasses.replace(problem, check=check).accepts(answer) is right


def test_plain_answers_are_accepted_in_any_case_of_letters():
    problem = dataclasses.replace(draw(["compare"], 1, 0)[0], answer="yes")
    assert problem.accepts(" Yes ")
    assert not problem.accepts("no")


@pytest.mark.parametrize("task", ["add", "subtract", "compare", "multiply", "word"])
def test_pairs_held_out_are_met_in_training_nowhere(drawn, task):
    held = {p.key for p in draw([task], 1500, 2, "held-out", "all")}
    met = set()
    for problems in drawn.values():
        for problem in problems:
            asked = problem.thought.splitlines()
            met |= {f"{x},{y}" for x, y in pairs(problem.thought)}
            if problem.task == "compare":
                x, y = map(int, asked[1].split())
                met.add(f"{max(x, y)},{min(x, y)}")
    assert len(held) > 100
    assert len(met) > 5000
    assert not held & met


@pytest.mark.parametrize("task", ["two-step", "countdown"])
def test_whole_expressions_held_out_are_not_asked_in_training(drawn, task):
    held = {problem.key for problem in draw([task], 500, 2, "held-out")}
    assert len(held) > 100
    assert not held & {problem.key for problem in drawn[task]}


def test_the_same_seed_gives_the_same_and_fewer_are_the_beginning():
    assert draw(TASKS, 50, 7) == draw(TASKS, 80, 7)[:50]
    assert draw(TASKS, 50, 7) != draw(TASKS, 50, 8)


def test_thoughts_answers_and_questions_are_of_one_language(drawn):
    words = {"en": "carry|from|First|no$|digit by", "de": "Übertrag|von|Zuerst|Ziffer"}
    for problems in drawn.values():
        for problem in problems:
            other = {"en": "de", "de": "en"}[problem.language]
            assert not re.search(rf"\b({words[other]})\b", problem.thought), problem


def test_one_language_and_short_operands_can_be_chosen():
    problems = draw(["add"], 200, 3, languages=["de"], digits=2)
    assert {problem.language for problem in problems} == {"de"}
    assert max(int(n) for p in problems for n in p.key.split(",")) < 100


def test_negative_results_are_common(drawn):
    negative = sum(problem.answer.startswith("-") for problem in drawn["subtract"])
    assert 0.3 < negative / 3000 < 0.6


def test_a_problem_is_a_conversation():
    problem = draw(["add"], 1, 0, languages=["en"])[0]
    user, assistant = as_messages(problem)
    assert user == {"role": "user", "content": problem.question}
    assert assistant == {
        "role": "assistant",
        "reasoning_content": problem.thought,
        "content": f"The answer is \\boxed{{{problem.answer}}}.",
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dict(tasks=["sum"]), "'sum' is no task"),
        (dict(tasks=["subtrakt"]), "did you mean 'subtract'"),
        (dict(tasks=[]), "no task is given"),
        (dict(languages=["fr"]), "'fr' is no language"),
        (dict(split="test"), "'test' is no split"),
        (dict(phrasings="some"), "'some' is no choice of phrasings"),
        (dict(digits=5), "up to 5 digits"),
        (dict(digits=1, split="held-out"), "none is held out"),
        (dict(count=-1), "-1 problems"),
    ],
)
def test_what_cannot_be_drawn_is_said(change, expected):
    with pytest.raises(ConfigError, match=expected):
        draw(**(dict(tasks=["add"], count=1, seed=0) | change))
