"""The guard: its command lives no longer than who started it."""

import signal
import subprocess
import sys

import pytest

from hosts.processes import ROOT

GUARD = [sys.executable, "-S", ROOT / "deploy" / "guard.py", "--"]
ENDLESS = ["sh", "-c", "trap 'echo told; exit 5' TERM; echo up; sleep 9 & wait"]


@pytest.fixture
def guarded():
    """Gives an endless command under the guard, once it runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*GUARD, *ENDLESS], stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_the_command_is_told_to_stop_when_its_starter_is_gone(guarded):
    guarded.stdin.close()
    assert guarded.stdout.readline() == b"told\n"
    assert guarded.wait(5) == 5


def test_a_signal_is_passed_on(guarded):
    guarded.send_signal(signal.SIGTERM)
    assert guarded.stdout.readline() == b"told\n"
    assert guarded.wait(5) == 5


@pytest.mark.parametrize(
    ("command", "code"), [(["sh", "-c", "exit 3"], 3), (["/none"], 2), ([], 2)]
)
def test_the_command_gives_the_exit_code(command, code):
    with subprocess.Popen([*GUARD, *command], stdin=subprocess.PIPE) as process:
        assert process.wait(5) == code
