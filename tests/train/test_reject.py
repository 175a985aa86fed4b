"""Which sampled answers become lessons, and how they are written."""

import json

import pytest

from r1jax.errors import ConfigError
from r1jax.train import reject
from r1jax.train.rollout import Completion, Judged, Prompt
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


@pytest.fixture
def kept(monkeypatch):
    """Runs `reject.keep` over given answers to one question."""

    def run(answers, **rules):
        def sample(llm, prompts, judge, **_):
            return [[Judged(c, judge(p.task, c)) for c in answers] for p in prompts]

        monkeypatch.setattr(reject, "sample", sample)
        llm, prompt = Silent(), Prompt(Sum(), (1,), OPENED)
        params = {"final_norm": {"scale": 2.0}}
        [(_, good)] = reject.keep(llm, params, [prompt], reject.Rules(**rules))
        assert llm.bound[-1] is params
        return [c.text for c in good]

    return run


def test_right_answers_are_kept_once_the_shortest_first(kept):
    long, short = "so and the sum</think>\\boxed{4}", "the</think>\\boxed{4}"
    wrong, mixed = "the</think>\\boxed{5}", "the und</think>\\boxed{4}"
    answers = answered(long, wrong, short, mixed, short, "the \\boxed{4}")
    assert kept(answers, temperature=0.5) == [short, long]
    assert kept(answers, keep=1) == [short]
    assert kept(answers, language=0.5) == [short, mixed, long]


def test_answers_that_were_cut_off_are_dropped(kept):
    assert kept(answered("the</think>\\boxed{4}", finish="length")) == []


def test_lines_hold_messages_with_the_thought_apart(tmp_path):
    path = tmp_path / "kept.jsonl"
    answers = answered("das ist 4 ü\n</think>\n\nIt is \\boxed{4}.")
    assert reject.write(path, [(Sum(), answers), (Sum(), [])]) == 1
    [line] = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "reasoning_content": "das ist 4 ü",
            "content": "It is \\boxed{4}.",
        },
    ]
    with pytest.raises(ConfigError, match="exists"):
        reject.write(path, [])
    assert json.loads(path.read_text(encoding="utf-8"))
    assert list(tmp_path.iterdir()) == [path]


def test_rules_that_keep_nothing_are_refused():
    with pytest.raises(ConfigError, match="samples=0"):
        reject.Rules(samples=0)
