"""What is rewarded, and the traps in it."""

from dataclasses import dataclass

import pytest

from r1jax.errors import ConfigError
from r1jax.train.rewards import accuracy, form, language, weighed
from r1jax.train.rollout import Completion

OPENED = "<｜User｜>2+2?<｜Assistant｜><think>\n"
PLAIN = "<｜User｜>2+2?<｜Assistant｜>"


@dataclass(frozen=True)
class Sum:
    question: str = "2+2?"
    language: str = "en"

    def accepts(self, answer):
        return answer == "4"


def completion(text, prompt=OPENED, finish="stop"):
    return Completion(prompt, (), (), (), text, finish)


@pytest.mark.parametrize(
    ("text", "prompt", "right"),
    [
        ("two and two</think>\\boxed{4}", OPENED, 1),
        ("<think>two and two</think>\\boxed{4}", PLAIN, 1),
        ("two and two</think>\\boxed{5}", OPENED, 0),
        ("\\boxed{4}</think>four", OPENED, 0),  # only in the thought
        ("it must be \\boxed{4}", OPENED, 0),  # never left the thought
        ("x</think>\\boxed{5} no, \\boxed{4}", OPENED, 1),
    ],
)
def test_an_answer_is_right_by_its_last_box_outside_the_thought(text, prompt, right):
    assert accuracy(Sum(), completion(text, prompt)) == right


@pytest.mark.parametrize(
    ("text", "prompt", "finish", "kept"),
    [
        ("x</think>y", OPENED, "stop", 1),
        ("<think>x</think>y", PLAIN, "stop", 1),
        ("<think>x</think>y", OPENED, "stop", 0),  # opened twice
        ("x</think>y", PLAIN, "stop", 0),
        ("x</think>y</think>z", OPENED, "stop", 0),
        ("x", OPENED, "stop", 0),
        (" </think>y", OPENED, "stop", 0),
        ("x</think> ", OPENED, "stop", 0),
        ("hm<think>x</think>y", PLAIN, "stop", 0),
        ("x</think>y", OPENED, "length", 0),
    ],
)
def test_the_form_counts_the_tag_that_the_prompt_has_opened(text, prompt, finish, kept):
    assert form(Sum(), completion(text, prompt, finish)) == kept


def test_a_question_that_mentions_tags_opens_nothing():
    prompt = "<｜User｜>what is <think>?<｜Assistant｜>"
    assert form(Sum(), completion("<think>x</think>y", prompt)) == 1


@pytest.mark.parametrize(
    ("text", "asked", "share"),
    [
        ("so we first have the sum</think>Antwort und das", "en", 1.0),
        ("also wir haben zuerst das</think>4", "en", 0.0),
        ("also wir haben zuerst das</think>4", "de", 1.0),
        ("the sum is das</think>4", "en", 2 / 3),
        ("2 + 2 = 4</think>4", "de", 1.0),  # numbers have no language
        ("\\is \\the das</think>4", "de", 1.0),  # nor has LaTeX
    ],
)
def test_a_thought_is_of_the_questions_language_by_the_share_of_its_words(
    text, asked, share
):
    task = Sum(language=asked)
    assert language(task, completion(text)) == pytest.approx(share)


def test_rewards_are_added_by_their_weights_and_told_apart():
    judge = weighed({"accuracy": 1.0, "format": 0.1})
    assert judge(Sum(), completion("x</think>5")) == {
        "accuracy": 0.0,
        "format": 1.0,
        "reward": pytest.approx(0.1),
    }


def test_what_cannot_be_rewarded_is_refused():
    with pytest.raises(ConfigError, match="beauty"):
        weighed({"beauty": 1.0})
    with pytest.raises(ConfigError, match="no weight"):
        weighed({"format": 0.0})
    with pytest.raises(ConfigError, match="'fr'"):
        language(Sum(language="fr"), completion("x"))
