"""The converter's command line: a report, or three lines and exit code 2."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from golden_files import golden
from r1jax.convert import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run():
    """Runs the command as a user does."""

    def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "r1jax.convert", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    return tool


def test_prints_a_report_and_nothing_else(run, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(golden("deepseek_fp8_mtp").directory, source)
    (source / "tokenizer.json").write_text("{}")
    result = run("--input", source, "--output", tmp_path / "out", "--dtype", "float32")
    assert (result.returncode, result.stderr) == (0, "")
    assert "tensors in, 53 leaves out" in result.stdout
    assert str(tmp_path / "out") in result.stdout
    assert (tmp_path / "out" / "r1jax.json").exists()


def test_a_checkout_has_a_script_that_does_the_same(capsys, monkeypatch):
    script = str(ROOT / "tools" / "convert_weights.py")
    monkeypatch.setattr(sys, "argv", [script, "--input", "nowhere"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(script, run_name="__main__")
    assert left.value.code == 2
    assert "--output is missing" in capsys.readouterr().err


def test_bad_input_is_three_lines_and_exit_code_2(run, tmp_path):
    result = run("--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert result.returncode == 2
    what, why, fix = result.stderr.splitlines()
    assert what.startswith("error: ")
    assert "nowhere" in what
    assert why.startswith("  why: ")
    assert fix.startswith("  fix: ")


def test_there_and_back_and_checked(run, tmp_path):
    source, output, back = (tmp_path / name for name in ("source", "out", "back"))
    shutil.copytree(golden("deepseek_fp8_mtp").directory, source)
    (source / "tokenizer.json").write_text("{}")
    few = ("--dtype", "fp8_blocks", "--experts-dtype", "int4")
    assert run("--input", source, "--output", output, *few).returncode == 0
    checked = run("--verify", output)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "75 leaves are as they were written" in checked.stdout
    result = run("--to-hf", output, "--output", back)
    assert (result.returncode, result.stderr) == (0, "")
    assert "97 tensors in 1 files" in result.stdout
    (output / "final_norm.scale" / "c" / "0").unlink()
    checked = run("--verify", output)
    assert checked.returncode == 2
    damage, *error = checked.stderr.splitlines()
    assert damage.startswith("leaf final_norm/scale: ")
    assert damage.endswith("is missing")
    assert [line.split(":")[0].strip() for line in error] == ["error", "why", "fix"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["--input", "x"], "--output is missing"),
        (["--verify", "x", "--dtype", "int8"], "--dtype does nothing"),
        (["--to-hf", "x", "--output", "y", "--dense-dtype", "int8"], "does nothing"),
        (["--to-hf", "x", "--verify", "y"], "not allowed"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
