"""An engine that is stuck is noticed, told of, and left."""

import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import httpx
import pytest

from r1jax.engine.types import EngineStats
from r1jax.serve.watchdog import Watchdog


def engine():
    fake = SimpleNamespace(steps=0, failure=None, failed=[])
    fake.stats = lambda: EngineStats(steps=fake.steps)
    fake.fail = fake.failed.append
    return fake


def test_idle_and_working_engines_are_left_alone():
    fake, owed = engine(), [0]
    watchdog = Watchdog(fake, lambda: owed[0], 0.2, leave=fake.failed.append)
    time.sleep(0.5)  # idle
    owed[0] = 1
    for _ in range(10):  # slow, but going on
        fake.steps += 1
        time.sleep(0.05)
    watchdog.stop()
    assert not watchdog.barked
    assert not fake.failed


def test_a_stuck_engine_fails_and_the_threads_are_shown(eventually, capfd, caplog):
    fake, left = engine(), []
    watchdog = Watchdog(fake, lambda: 1, 0.2, leave=left.append)
    eventually(lambda: fake.failed)
    assert watchdog.barked
    assert "no step has ended for 0.2 seconds" in fake.failed[0]
    assert "the engine is stuck" in caplog.text
    shown = capfd.readouterr().err
    assert "most recent call first" in shown
    assert "test_watchdog.py" in shown
    watchdog.stop()
    assert not left  # it was stopped within its grace


STUCK = """
    import sys, time
    import jax
    jax.config.update("jax_platforms", "cpu")
    from r1jax.engine import runner
    from r1jax.serve import __main__ as command
    from r1jax import parameters
    from r1jax.engine.types import EngineOptions, SamplingParams
    from r1jax.llm import LLM
    from r1jax.presets import preset
    from r1jax.text.tokenizer import Tokenizer

    runner.Runner.compile = lambda self, geometry: None
    runner.Runner.dispatch = lambda self, plan, seeds: time.sleep(3600)
    config = preset("tiny-qwen2")
    params = jax.jit(lambda: parameters.init(config, jax.random.key(0)))()
    options = EngineOptions(64, page_size=16, num_pages=8)
    words = Tokenizer.from_directory(sys.argv[1])
    llm = LLM("toy", config, params, words, options, SamplingParams())
    command.load = lambda source, **arguments: llm
    sys.exit(command.main(["--port", "0", "--step-timeout", "1", "toy"]))
"""


@pytest.mark.slow
def test_a_server_whose_device_hangs_tells_its_clients_and_ends_with_code_1(
    folder_of_words,
):
    command = [sys.executable, "-c", textwrap.dedent(STUCK), str(folder_of_words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = next(
            line.split()[1] for line in process.stdout if line.startswith("listening")
        )
        answer = httpx.post(f"{url}/completions", json={"prompt": "a"}, timeout=60)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_error"
        assert process.wait(30) == 1
        said = process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert "the engine is stuck" in said
    assert "most recent call first" in said
    assert "the server ends: no step has ended" in said
