"""The command prints problems, their lengths, or writes the tokenizer."""

from r1jax.problems import draw
from r1jax.problems.__main__ import main


def test_problems_are_printed_as_drawn(capsys):
    assert main(["--task", "add", "--count", "2", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    for problem in draw(["add"], 2, 3):
        assert f"[add] {problem.question}\n<think>\n{problem.thought}\n" in printed


def test_lengths_are_printed_for_each_task(capsys):
    assert main(["--lengths", "--task", "add", "--task", "word", "--count", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tokens", "add", "word"]


def test_a_bad_flag_is_three_lines_and_no_traceback(capsys):
    assert main(["--task", "divide"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
