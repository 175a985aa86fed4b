"""The command refuses what it cannot do, in three lines and before any work."""

import pytest

from r1jax.evaluate.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--task", "aime"], "--data"),
        (["--task", "chess"], "chess"),
        (["--task", "humaneval"], "--run-code"),
        (["--task", "gsm8k", "aime", "--data", "x"], "one task"),
        (["--url", "http://x", "--dtype", "int8"], "--dtype counts in process only"),
        (["--api-key", "x"], "--api-key counts with --url only"),
        (["--temperature", "3"], "temperature is 3.0"),
        (["--samples", "0"], "0 is less than 1"),
    ],
)
def test_what_cannot_be_is_refused(capsys, tmp_path, arguments, complaint):
    given = arguments if "--task" in arguments else [*arguments, "--task", "gsm8k"]
    output = tmp_path / "out"
    assert main([*given, "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert "Traceback" not in said.err
    assert not output.exists()


def test_several_samples_at_temperature_zero_are_refused(capsys, tmp_path, problems):
    given = ["--task", "maths", "--data", str(problems), "--url", "http://127.0.0.1:9"]
    given += ["--temperature", "0", "--output", str(tmp_path / "out")]
    assert main(given) == 2
    assert "4 samples at temperature 0" in capsys.readouterr().err
