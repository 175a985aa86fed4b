"""Whole runs of rejection sampling: a model or a teacher is asked, stopped, gone on."""

import json
import signal

import pytest

from r1jax import remote
from r1jax.errors import CheckpointError, ConfigError
from r1jax.train import rejecting, settings
from r1jax.train.__main__ import main
from r1jax.train.kept import Kept
from sum_server import total


def make(*words):
    few = ["tasks=add", "problems=4", "rules.samples=3", "url_model=adder"]
    return settings.load("configs/reject.py", [*few, *words])


def quiet(_):
    pass


@pytest.mark.parametrize("tags", [False, True])
def test_a_teachers_right_answers_are_kept(tags, sums, tmp_path):
    sums.tags = tags
    words = [f"url={sums.url}", "url_model="]
    assert rejecting.run(make(*words), tmp_path, False, quiet)
    assert len(sums.bodies) == 12
    assert {body["model"] for body in sums.bodies} == {"adder"}
    even = [body for body in sums.bodies if body["seed"] % 2 == 0]  # they are right
    right = {body["messages"][0]["content"] for body in even}
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(lines) == len(right)
    for line in lines:
        question, answer = json.loads(line)["messages"]
        assert question["content"] in right
        assert answer == {
            "role": "assistant",
            "reasoning_content": "hm",
            "content": f"\\boxed{{{total(question['content'])}}}",
        }


def test_a_stopped_run_goes_on_to_the_same_bytes(sums, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    url = f"url={sums.url}"
    assert rejecting.run(make(url), whole, False, quiet)
    add = Kept.add

    def add_and_stop(self, number, several):
        add(self, number, several)
        if len(self.done) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Kept, "add", add_and_stop)
    said, slow = [], make(url, "url_concurrency=1", "api_key=secret")
    assert not rejecting.run(slow, parts, False, said.append)
    assert said == ["stopped and saved after 2 of 4 questions; --resume goes on"]
    assert "Bearer secret" in sums.keys
    assert "secret" not in (parts / "kept.partial.jsonl").read_text()
    with pytest.raises(ConfigError, match="answers to 2 questions"):
        rejecting.run(slow, parts, False, quiet)
    with pytest.raises(CheckpointError, match="seed is '1', and was '0'"):
        rejecting.run(make(url, "seed=1"), parts, True, quiet)
    with (parts / "kept.partial.jsonl").open("a") as file:
        file.write('{"number": 3, "kept": [[{"role": "us')  # as a kill leaves it
    sums.bodies.clear()
    assert rejecting.run(make(url), parts, True, said.append)
    assert said[1] == "goes on after 2 of 4 questions"
    assert len(sums.bodies) == 2 * 3
    files = [place / "kept.jsonl" for place in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes() != b""
    assert list(parts.iterdir()) == [files[1]]
    with pytest.raises(ConfigError, match="it is whole"):
        rejecting.run(make(url), parts, True, quiet)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (0, "cannot be reached"),
        (401, "give the key"),
        (500, "status 500"),
        (200, "no chat completion"),
    ],
)
def test_a_teacher_that_fails_is_told_and_can_be_gone_on_with(
    status, says, sums, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    sums.refusals = [(status, {})] * 999
    url = sums.url if status else "http://127.0.0.1:9"
    changes = {"url": url, "url_model": "adder", "tasks": "add", "problems": 2}
    words = [w for k, v in changes.items() for w in ("--set", f"{k}={v}")]
    command = ["configs/reject.py", *words, "--output", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "why: " in error
    assert "fix: " in error
    sums.refusals = []
    assert main([*command, "--set", f"url={sums.url}", "--resume"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=a", "url=http://b"], "set one of them"),
        (["url_model=", "url="], "set one of them"),
        (["model=a"], "url_model is set without url"),
        (["url=http://b", "url_concurrency=0"], "url_concurrency is 0"),
        (["url=b"], "no address"),
    ],
)
def test_settings_of_which_one_would_be_ignored_are_refused(words, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        rejecting.run(make(*words), tmp_path / "out", False, quiet)
    with pytest.raises(ConfigError, match="holds no answers"):
        rejecting.run(make("url=http://b"), tmp_path / "out", True, quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_answers_are_sampled_and_none_of_random_weights_is_right(model, tmp_path):
    small = ["rules.samples=2", "rules.max_tokens=4", "engine.max_num_seqs=4"]
    asked = make(f"model={model}", "url_model=", "problems=2", *small)
    said = []
    assert rejecting.run(asked, tmp_path, False, said.append)
    assert said == ["kept 0 of 4 answers"]
    assert (tmp_path / "kept.jsonl").read_text() == ""
