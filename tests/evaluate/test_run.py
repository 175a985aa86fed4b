"""Samples are drawn once each, kept at once, and judged together."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from r1jax.errors import ConfigError
from r1jax.evaluate.run import Plan, evaluate
from r1jax.evaluate.samples import seed_of
from r1jax.evaluate.tasks import Item, Task
from r1jax.remote import Answer, AskError, Sampling

ITEMS = tuple(Item(str(n), f"question {n}", "ABC"[n % 3]) for n in range(6))
TASK = Task("letters", ITEMS, "choice", 4)


class Fake:
    """Answers "A" and counts; fails where it is told to."""

    name, concurrency = "fake", 3

    def __init__(self, fails=()) -> None:
        self.asked: list[tuple[str, int]] = []
        self.fails = fails

    def ask(self, question, sampling, seed):
        self.asked.append((question, seed))
        if question in self.fails:
            raise AskError("the fake is tired", "it says so")
        finish = "length" if question == "question 0" else "stop"
        return Answer("ANSWER: A", "", 10, finish)


def plan(samples=2, **more):
    return Plan(Sampling(), samples, **more)


def test_every_problem_is_asked_as_often_as_planned_each_with_its_own_seed(tmp_path):
    model = Fake()
    result = evaluate(model, TASK, plan(3), tmp_path)
    assert sorted(model.asked) == sorted(
        (item.question, seed_of(0, item.key, n)) for item in ITEMS for n in range(3)
    )
    assert len({seed for _, seed in model.asked}) == 18
    assert result.pass_at_1.mean == pytest.approx(1 / 3)
    assert result.cons_at_k.mean == pytest.approx(1 / 3)
    assert result.pass_at_k == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert result.truncated == pytest.approx(1 / 6)
    assert result.tokens == 10


def test_a_rerun_asks_nothing_and_more_samples_only_what_is_missing(tmp_path):
    first = evaluate(Fake(), TASK, plan(2), tmp_path)
    again = Fake()
    assert evaluate(again, TASK, plan(2), tmp_path) == first
    assert again.asked == []
    more = Fake()
    evaluate(more, TASK, plan(3), tmp_path)
    assert len(more.asked) == 6
    fewer = Fake()
    assert evaluate(fewer, TASK, plan(2), tmp_path) == first
    assert fewer.asked == []


def test_too_few_samples_are_no_score_but_are_kept(tmp_path):
    with pytest.raises(AskError, match="2 of 12 samples of letters did not come"):
        evaluate(Fake(fails=["question 4"]), TASK, plan(2), tmp_path)
    healed = Fake()
    evaluate(healed, TASK, plan(2), tmp_path)
    assert [question for question, _ in healed.asked] == ["question 4"] * 2


def test_a_model_that_keeps_failing_is_not_asked_on_and_on(tmp_path):
    model = Fake(fails=[item.question for item in ITEMS])
    with pytest.raises(AskError, match="the fake is tired"):
        evaluate(model, TASK, plan(100), tmp_path)
    assert len(model.asked) < 20


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("temperature", plan(2, limit=None)),
        ("seed", Plan(Sampling(), 2, seed=1)),
        ("max_tokens", Plan(Sampling(max_tokens=5), 2)),
    ],
)
def test_a_changed_setting_is_refused_by_name(tmp_path, name, changed):
    if name == "temperature":
        sampling = dataclasses.replace(changed.sampling, temperature=1.0)
        changed = dataclasses.replace(changed, sampling=sampling)
    evaluate(Fake(), TASK, plan(1), tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"^{name} is"):
        evaluate(Fake(), TASK, changed, tmp_path)
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_other_problems_are_refused(tmp_path):
    evaluate(Fake(), TASK, plan(1), tmp_path)
    other = dataclasses.replace(TASK, items=ITEMS[1:])
    with pytest.raises(ConfigError, match=r"^problems_digest is"):
        evaluate(Fake(), other, plan(1), tmp_path)


def test_half_a_line_is_cut_off_and_asked_again(tmp_path):
    evaluate(Fake(), TASK, plan(1), tmp_path)
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    model = Fake()
    evaluate(model, TASK, plan(1), tmp_path)
    assert len(model.asked) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_broken_line_is_told_and_left(tmp_path):
    evaluate(Fake(), TASK, plan(1), tmp_path)
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ConfigError, match="line 1 is no sample"):
        evaluate(Fake(), TASK, plan(1), tmp_path)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(tmp_path, sums, problems):
    pytest.importorskip("math_verify")
    sums.slow = 0.1
    output = tmp_path / "out"
    command = [sys.executable, "-m", "r1jax.evaluate", "--url", sums.url, "--task"]
    command += ["maths", "--data", problems, "--output", output, "--samples", "4"]
    command += ["--concurrency", "2"]
    path = output / "maths" / "samples.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    kept = path.read_bytes().count(b"\n")
    assert 5 <= kept < 40
    time.sleep(0.3)  # until the server has answered what nobody waits for
    sums.slow, sums.bodies = 0.0, []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(sums.bodies) == 40 - kept
    [result] = json.loads((output / "results.json").read_text())["results"]
    right = sum(
        seed_of(0, str(n), number) % 2 == 0 for n in range(10) for number in range(4)
    )
    assert result["pass_at_1"]["mean"] == pytest.approx(right / 40)
    assert (output / "results.png").stat().st_size > 1000
    assert "pass@1" in done.stdout
