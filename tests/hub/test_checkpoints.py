"""Converted once and kept: taken where it fits, listed, deleted, never half of one."""

import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import r1jax
from hub_stand_in import NAME, NEEDED
from r1jax import checkpoints
from r1jax.checkpoints import __main__ as command
from r1jax.checkpoints.kept import place
from r1jax.errors import CheckpointError, ConfigError
from r1jax.hub import Repository, parse
from r1jax.locate import locate
from r1jax.weights import convert, verify
from r1jax.weights.dtypes import chosen_scheme
from r1jax.weights.journal import Journal, partial_beside

int8, float32 = (functools.partial(chosen_scheme, dtype=d) for d in ("int8", "float32"))


@pytest.fixture
def run(hub, capsys):
    """Runs the command; gives the exit code and what it printed."""

    def command_line(*arguments):
        code = command.main(arguments)
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return command_line


def test_a_kept_checkpoint_is_taken_in_its_form_only(hub, run, tmp_path, monkeypatch):
    code, said = run("add", NAME, "--dtype", "int8")
    assert (code, "tensors in" in said) == (0, True)
    assert "is there already" in run("add", NAME, "--dtype", "int8")[1]
    (one,) = checkpoints.all_kept()
    shutil.rmtree(tmp_path / "hub")
    hub.asked.clear()
    assert locate(NAME, int8) == locate(f"{NAME}@{one.repository.revision}", int8)
    assert locate(NAME, int8) == one.path
    assert not any(name.endswith("safetensors") for name in hub.fetched())
    opened = []

    def stop(path):
        opened.append(path)
        raise CheckpointError("enough is known")

    monkeypatch.setattr(sys.modules["r1jax.load"], "open_source", stop)
    for dtype in ("int8", None):
        with pytest.raises(CheckpointError, match="enough"):
            r1jax.load(NAME, dtype=dtype)
    release = locate(NAME)
    assert opened == [one.path, release]
    assert locate(NAME, float32) == release
    hub.put(NAME, NEEDED | {"generation_config.json": b"{}"})
    assert locate(NAME, int8) not in (one.path, release)


def test_list_and_delete(hub, run, tmp_path):
    assert run("list") == (0, f"nothing is kept in {tmp_path / 'kept'}\n")
    run("add", NAME)
    run("add", NAME, "--dtype", "int8", "--experts-dtype", "int4")
    commit = hub.repositories[NAME].refs["main"][:12]
    few, plain, total = run("list")[1].splitlines()
    assert few.startswith(f"{NAME}@{commit} ")
    assert few.endswith(" GB  attention=int8,dense=int8,experts=int4")
    assert few.split()[0] == plain.split()[0]
    assert plain.endswith("bfloat16")
    assert total.endswith(f"GB in {tmp_path / 'kept'}")
    code, said = run("delete", "other/model")
    assert (code, said.splitlines()[0]) == (2, "no kept checkpoint is other/model")
    assert run("delete", f"{NAME}@{commit}", "--form", "bfloat16")[0] == 0
    assert [one.form for one in checkpoints.all_kept()] == [few.split()[-1]]
    assert run("delete", NAME)[0] == 0
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_checkpoint_that_is_not_whole_is_never_taken(hub, run):
    commit = Repository(NAME, locate(NAME).name)
    output = place(commit, "bfloat16")
    output.parent.mkdir(parents=True)
    entered, leave = threading.Event(), threading.Event()

    def convert_slowly():
        with partial_beside(output, {}) as journal:
            journal.begin()
            entered.set()
            leave.wait()

    other = threading.Thread(target=convert_slowly)
    other.start()
    entered.wait()
    forms = functools.partial(chosen_scheme, dtype="bfloat16")
    try:
        assert locate(NAME, forms) == locate(NAME)
        assert run("list")[1].splitlines()[0].endswith("bfloat16  unfinished")
        for verb in ("add", "delete"):
            code, said = run(verb, NAME)
            assert (code, "another process is writing" in said) == (2, True)
    finally:
        leave.set()
        other.join()
    shutil.rmtree(output)
    assert run("add", NAME)[0] == 0
    assert locate(NAME, forms) == output


def test_what_a_stopped_conversion_left_can_be_deleted(hub, run, monkeypatch):
    path = locate(NAME)
    output = place(Repository(NAME, path.name), "bfloat16")
    output.parent.mkdir(parents=True)
    note, noted = Journal.note, []

    def stop(self, *unit):
        note(self, *unit)
        noted.append(unit)
        if len(noted) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "note", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(path, output)
    (one,) = checkpoints.all_kept()
    assert not one.whole
    assert one.nbytes > 0
    assert run("delete", NAME)[0] == 0
    assert checkpoints.all_kept() == []


@pytest.mark.slow(minutes=True)
def test_two_processes_at_once_make_one_checkpoint(hub, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    add = [sys.executable, "-m", "r1jax.checkpoints", "add", NAME]
    both = [subprocess.Popen(add, env=environment) for _ in range(2)]
    codes = sorted(process.wait() for process in both)
    assert codes in ([0, 0], [0, 2])
    (one,) = checkpoints.all_kept()
    assert verify(one.path)[1] == []
    assert list(one.path.parent.iterdir()) == [one.path]


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("./a", (), "is no repository of the hub"),
        (f"{NAME}@", (), "is no revision"),
        (NAME, ("--dtype", "int9"), "invalid choice"),
        ("owner/none", (), "neither a path here"),
    ],
)
def test_what_cannot_be_added_is_told_in_three_lines(run, name, options, what):
    code, said = run("add", name, *options)
    assert code == 2
    assert what in said.splitlines()[0]
    assert len(said.splitlines()) == 3


def test_a_place_that_cannot_be_written_is_told(hub, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("R1JAX_CHECKPOINTS", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be made"):
        checkpoints.add(parse(NAME))
    with pytest.raises(ConfigError, match="experts_dtype is 'int9'"):
        checkpoints.add(parse(NAME), experts_dtype="int9")
