"""Which sampled answers become lessons, and how they are written."""

import pytest

from r1jax.errors import ConfigError
from r1jax.remote import Answer
from r1jax.train import reject
from r1jax.train.rollout import Completion, Prompt
from r1jax.train.teacher import as_completion
from train.test_rewards import OPENED, Sum


class Silent:
    """Stands where the model is; what it samples is given."""

    def __init__(self):
        self.bound = []

    def bind(self, params):
        self.bound.append(params)


def answered(*texts, finish="stop"):
    return [
        Completion(OPENED, (1,), (5,) * len(text), (-1.0,) * len(text), text, finish)
        for text in texts
    ]


def kept(answers, **rules):
    return reject.keep(Sum(), answers, reject.Rules(**rules))


def test_right_answers_are_kept_once_the_shortest_first():
    long, short = "so and the sum</think>\\boxed{4}", "the</think>\\boxed{4}"
    wrong, mixed = "the</think>\\boxed{5}", "the und</think>\\boxed{4}"
    answers = answered(long, wrong, short, mixed, short, "the \\boxed{4}")

    def lines(*texts):
        return [reject.as_messages(Sum(), c) for c in answered(*texts)]

    assert kept(answers) == lines(short, long)
    assert kept(answers, keep=1) == lines(short)
    assert kept(answers, language=0.5) == lines(short, mixed, long)


def test_groups_are_whole_and_in_order_however_answers_end():
    ended = [(7, 1, "b"), (2, 0, "c"), (7, 0, "a"), (2, 1, "d")]
    assert list(reject.whole_groups(ended, 2)) == [(7, ["a", "b"]), (2, ["c", "d"])]


def test_another_temperature_is_bound_while_answers_are_sampled(monkeypatch):
    llm, params = Silent(), {"final_norm": {"scale": 2.0}}
    monkeypatch.setattr(reject, "each_ended", lambda *_, **__: iter([(0, 0, "a")]))
    rules = reject.Rules(temperature=0.5)
    assert list(reject.answers(llm, params, {0: Prompt(Sum(), (1,))}, rules)) == [
        (0, 0, "a")
    ]
    assert llm.bound == [{"final_norm": {"scale": 4.0}}, params]


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [
        ("\\boxed{4}", "the sum"),
        ("<think>\nthe sum\n</think>\n\n\\boxed{4}", ""),
        ("the sum\n</think>\n\n\\boxed{4}", ""),  # its prompt opened the thoughts
        ("\\boxed{4}", "the sum\ud800"),  # no file can hold this half of a letter
    ],
)
def test_a_teachers_thoughts_are_found_wherever_they_stand(content, reasoning):
    completion = as_completion(Answer(content, reasoning, 9, "stop"))
    [[_, answer]] = kept([completion])
    assert answer["reasoning_content"].rstrip("?") == "the sum"
    assert answer["content"] == "\\boxed{4}"


def test_answers_that_were_cut_off_are_dropped():
    assert kept(answered("the</think>\\boxed{4}", finish="length")) == []


def test_a_conversation_has_the_thought_apart():
    [answer] = answered("das ist 4 ü\n</think>\n\nIt is \\boxed{4}.")
    assert reject.as_messages(Sum(), answer) == [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "reasoning_content": "das ist 4 ü",
            "content": "It is \\boxed{4}.",
        },
    ]


def test_rules_that_keep_nothing_are_refused():
    with pytest.raises(ConfigError, match="samples=0"):
        reject.Rules(samples=0)
