"""The command prints problems, their lengths, or writes the tokenizer."""

import functools
import json

import pytest

from r1jax.problems import TASKS, as_messages, chats, draw, tokenizer
from r1jax.problems.__main__ import main
from r1jax.text import Tokenizer


@pytest.fixture(autouse=True)
def _little_text(monkeypatch):
    """Learns tokenizers from little text, to be quick."""
    little = functools.partial(tokenizer.train, problems=300)
    monkeypatch.setattr(tokenizer, "train", little)


def test_problems_are_printed_as_drawn(capsys):
    assert main(["--task", "add", "--count", "2", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    for problem in draw(["add"], 2, 3):
        assert f"[add] {problem.question}\n<think>\n{problem.thought}\n" in printed


def test_lessons_are_written_once(tmp_path, capsys):
    file = tmp_path / "lessons.jsonl"
    asked = ["--lessons", str(file), "--count", "3", "--chats", "2", "--seed", "3"]
    assert main(asked) == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    lessons = [json.loads(line)["messages"] for line in lines]
    assert lessons == [*map(as_messages, draw(TASKS, 3, 3)), *chats(2, 3)]
    assert main(asked) == 2
    assert "not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["--chats", "2"], ["--lengths", "--lessons", "x"], ["--lengths", "--write", "x"]],
)
def test_flags_that_would_be_ignored_are_refused(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert not list(tmp_path.iterdir())


def test_lengths_are_printed_for_each_task(capsys):
    assert main(["--lengths", "--task", "add", "--task", "word", "--count", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tokens", "add", "word"]


def test_a_bad_flag_is_three_lines_and_no_traceback(capsys):
    assert main(["--task", "divide"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_a_tokenizer_that_cannot_be_written_is_no_traceback(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("mine")
    assert main(["--write-tokenizer", str(taken)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_the_written_tokenizer_can_be_read(tmp_path, capsys):
    assert main(["--write-tokenizer", str(tmp_path / "new")]) == 0
    assert str(tmp_path / "new") in capsys.readouterr().out
    assert Tokenizer.from_directory(tmp_path / "new").encode("12 + 30")
