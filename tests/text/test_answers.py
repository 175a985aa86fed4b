"""The final answer is what stands in the last box outside the thoughts."""

import pytest

from r1jax.text.answers import compare, equal, final_answer, final_choice
from r1jax.text.latex import as_number, as_quantity, tidy


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} or \\boxed{2}", "2"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\}}", "\\}"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{}", None),
        ("nothing", None),
        ("<think>\\boxed{1}</think>", None),
        ("<think>\\boxed{1}", None),
        ("\\boxed{1}</think>\\boxed{2}", "2"),
    ],
)
def test_the_last_whole_box_outside_the_thoughts_counts(text, answer):
    assert final_answer(text) == answer


def test_who_knows_that_the_prompt_opened_the_thoughts_says_so():
    assert final_answer("\\boxed{1}") == "1"
    assert final_answer("\\boxed{1}", thinking=True) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("ANSWER: B", "B"),
        ("Answer: (c)", "C"),
        ("**ANSWER: D**", "D"),
        ("**Answer**: A\nno,\nANSWER: $\\boxed{B}$", "B"),
        ("It is \\boxed{\\text{(C)}}", "C"),
        ("ANSWER: Bread", None),
        ("<think>ANSWER: A</think> I cannot tell.", None),
    ],
)
def test_a_choice_is_the_letter_of_the_last_answer_line(text, letter):
    assert final_choice(text) == letter


def test_simple_answers_need_no_algebra():
    assert equal("1,000", "1000")
    assert equal("\\frac{2}{4}", "0.5")
    assert equal("\\{2,1\\}", "1,2")
    assert equal("x<2", "(-\\infty,2)")
    assert not equal("5 m", "5 cm")
    assert not equal("", "")


def test_what_nobody_knows_is_not_equal_but_not_known_either():
    assert compare("\\sqrt{4}", "2") is None
    assert not equal("\\sqrt{4}", "2")
    assert compare("\\sqrt{4}", "2", leaf=lambda a, t: True) is True
    assert compare("(1,\\sqrt{4})", "(3,2)") is False  # the first element decides


def test_numbers_are_read_exactly_and_in_bounded_time():
    assert as_number("0.1") * 10 == 1
    assert as_number("1/0") is None
    assert as_number("9^{999999}") is None
    assert as_number("1" * 10_000) is None
    assert as_quantity("-3 1/2 cm").value == -3.5


def test_tidying_twice_is_tidying_once():
    for text in ("$\\left(3,\\dfrac12\\right)$", "\\{1\\}", "30^\\circ", "5\\text{ m}"):
        assert tidy(tidy(text)) == tidy(text)
