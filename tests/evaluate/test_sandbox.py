"""What a model wrote can compute, and nothing else."""

import time

import pytest

from r1jax.errors import ConfigError
from r1jax.evaluate import sandbox
from r1jax.evaluate.sandbox import run_program


@pytest.fixture(scope="module", autouse=True)
def _holds():
    try:
        sandbox.check()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_program_that_runs_to_its_end_passes():
    assert run_program("import math\nassert math.comb(5, 2) == 10").passed


def test_a_wrong_program_fails_and_says_how():
    outcome = run_program("assert 1 == 2, 'not equal'")
    assert not outcome.passed
    assert outcome.note == "AssertionError: not equal"
    assert "SyntaxError" in run_program("def").note


@pytest.mark.parametrize(
    "leaves",
    ["raise SystemExit(0)", "import os; os._exit(0)", "import sys; sys.exit()"],
)
def test_leaving_before_the_tests_is_no_way_to_pass_them(leaves):
    assert not run_program(f"{leaves}\nassert False").passed


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket()",
        "import urllib.request as r; r.urlopen('http://127.0.0.1:1')",
        "import os; os.fork()",
        "import os; os.system('true') and 1/0",
        "import subprocess; subprocess.run(['true'])",
        "open('written', 'w')",
        "open('/tmp/written', 'a')",
        "import os; os.mkdir('folder')",
        "import os; os.remove('/etc/hostname')",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
    ],
)
def test_it_reaches_no_network_no_process_and_no_file(attempt):
    outcome = run_program(attempt)
    assert not outcome.passed
    assert outcome.note


def test_it_runs_neither_for_ever_nor_in_sleep():
    for program in ("while True: pass", "import time; time.sleep(60)"):
        start = time.monotonic()
        assert "more than 0.5 s" in run_program(program, seconds=0.5).note
        assert time.monotonic() - start < 5


def test_a_bomb_of_processes_or_threads_is_stopped():
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: raise"
    assert "not permitted" in run_program(bomb).note
    threads = (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(60,)).start()"
    )
    assert not run_program(threads, seconds=3).passed


def test_memory_is_limited():
    assert "MemoryError" in run_program("x = bytearray(2 << 30)").note


def test_it_sees_no_environment_and_no_arguments_of_ours(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    assert run_program("import os\nassert 'SECRET' not in os.environ").passed
    assert run_program("import sys\nassert not sys.stdin.read()").passed


def test_output_does_not_count_as_success():
    assert not run_program("print('x' * 100000)\nassert False").passed
    assert run_program("print('x' * 100000)").passed
