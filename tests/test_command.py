"""Programs of the package start anew in large pages, once, and nothing else does."""

import os
import subprocess
import sys

import pytest

from r1jax import command

PROGRAM = ["python3", "-X", "dev", "-m", "r1jax.train", "sft", "--output", "x y"]


@pytest.fixture
def restarted(monkeypatch):
    """Notes what a process would become, as while `python -m` looks for PROGRAM."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "argv", ["-m", "sft", "--output", "x y"])
    monkeypatch.setattr(sys, "orig_argv", PROGRAM)
    monkeypatch.setitem(os.confstr_names, "CS_GNU_LIBC_VERSION", 2)
    became = []
    monkeypatch.setattr(os, "execv", lambda *words: became.append(words))
    yield became
    os.environ.pop("GLIBC_TUNABLES", None)


def test_a_program_starts_anew_with_the_same_words_and_once(restarted):
    command.restart_in_large_pages()
    assert restarted == [(sys.executable, [sys.executable, *PROGRAM[1:]])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    command.restart_in_large_pages()
    assert len(restarted) == 1


def test_other_programs_other_libraries_and_the_users_own_choice_are_left(
    restarted, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python3", "-m", "another", "r1jax.train"])
        command.restart_in_large_pages()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["a/program.py"])
        command.restart_in_large_pages()
    with monkeypatch.context() as patch:
        patch.delitem(os.confstr_names, "CS_GNU_LIBC_VERSION")
        command.restart_in_large_pages()
    with monkeypatch.context() as patch:
        patch.setenv("GLIBC_TUNABLES", "")
        command.restart_in_large_pages()
    assert restarted == []


def test_training_is_such_a_program(tmp_path):
    note = "import os; open(r'{}', 'a').write(os.environ.get('GLIBC_TUNABLES', '-'))"
    (tmp_path / "sitecustomize.py").write_text(note.format(tmp_path / "starts"))
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "r1jax.train", "--help"],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m r1jax.train" in done.stdout
    assert (tmp_path / "starts").read_text() == "-glibc.malloc.hugetlb=1"
