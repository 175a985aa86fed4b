"""One model over several processes: the same answers, and an end that is told."""

import functools
import os
import signal
import sys
import threading
import time

import httpx
import pytest

import r1jax
from hosts.processes import QUICK, R1, ROOT, Site, flags, free_port
from r1jax.engine import simple

PROMPT = "The quick brown fox"
LOST = 1


@pytest.fixture(scope="module")
def alone(checkpoint):
    """Gives the answers of one process and one device, by the plain loop."""

    @functools.cache
    def load(name: str) -> r1jax.LLM:
        return r1jax.load(checkpoint(name), max_model_len=64, page_size=16)

    def answer(name: str, prompt: str, tokens: int) -> str:
        llm = load(name)
        greedy = r1jax.SamplingParams(temperature=0, max_tokens=tokens)
        ids = llm.tokenizer.encode_prompt(prompt)
        out = simple.generate(llm.config, llm.params, ids, greedy, max_model_len=64)
        return llm.tokenizer.decode(out)

    return answer


def text(chunks) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def ends(process) -> list[str]:
    """The lines in which a process says why it ends."""
    return [line for line in process.lines if line.startswith("r1jax: ")]


def check_answers(site, name, alone) -> None:
    prompts = [PROMPT, "jumps over", "the lazy dog, twice"]
    together: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda p=p: together.update({p: site.words(p)}))
        for p in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == {p: alone(name, p, 12) for p in prompts}
    # Penalties keep counts on every device.
    assert site.words(PROMPT, frequency_penalty=2.0) != together[PROMPT]
    assert text(site.stream(PROMPT, max_tokens=12)) == together[PROMPT]


def check_death(site, victim: int, number: int = signal.SIGKILL) -> list[int]:
    """Kills a process in the middle of an answer; gives the others' exit codes."""
    chunks = site.stream(PROMPT, max_tokens=400, ignore_eos=True)
    next(chunks)
    others = [p for i, p in enumerate(site.processes) if i != victim]
    site.processes[victim].kill(number)
    since = time.monotonic()
    if victim:
        *_, last = chunks
        assert last["error"]["code"] == "engine_error"
        assert f"process {victim} has " in last["error"]["message"].lower()
    else:
        with pytest.raises(httpx.HTTPError):
            list(chunks)
    codes = [process.wait(30) for process in others]
    assert time.monotonic() - since < 30
    for process in others:
        [line] = ends(process)
        assert f"process {victim} has " in line
        assert "Traceback" not in "\n".join(process.lines)
        assert "Check failure" not in "\n".join(process.lines)
    return codes


def test_two_processes_answer_as_one_and_stop_when_either_is_told_to(serve, alone):
    site = serve(QUICK, 2)
    check_answers(site, QUICK, alone)
    chunks = site.stream(PROMPT, max_tokens=40, ignore_eos=True)
    first = next(chunks)
    site.processes[1].kill(signal.SIGTERM)
    assert text([first, *chunks]) == alone(QUICK, PROMPT, 40)
    assert site.codes() == [0, 0]
    assert [ends(process) for process in site.processes] == [[], []]


def test_the_death_of_a_process_ends_all_and_is_told(serve):
    assert check_death(serve(QUICK, 2), victim=1) == [LOST]


@pytest.mark.slow
def test_the_death_of_process_0_ends_the_others(serve):
    assert check_death(serve(QUICK, 2), victim=0) == [LOST]


@pytest.mark.slow
def test_a_host_that_hangs_counts_as_dead(serve):
    site = serve(QUICK, 2)
    assert check_death(site, victim=1, number=signal.SIGSTOP) == [LOST]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_while_nothing_runs_ends_the_other(serve, victim):
    site = serve(QUICK, 2)
    site.processes[victim].kill(signal.SIGKILL)
    survivor = site.processes[1 - victim]
    assert survivor.wait(30) == LOST
    [line] = ends(survivor)
    assert f"process {victim} has ended" in line


@pytest.mark.slow
def test_four_processes_answer_as_one_and_end_together(serve, alone):
    site = serve(R1, 4, "--data-parallel-size", 2, "--tensor-parallel-size", 2)
    check_answers(site, R1, alone)
    assert check_death(site, victim=2) == [LOST] * 3


@pytest.mark.slow
def test_other_flags_than_those_of_process_0_are_refused(launch, checkpoint, cache):
    group = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2)
    both = [*flags(checkpoint(QUICK), cache), *group]
    first = launch(*both, "--process-id", 0)
    second = launch(*both, "--process-id", 1, "--dtype", "bfloat16")
    assert (first.wait(60), second.wait(60)) == (LOST, 2)
    assert "dtype is 'bfloat16' in process 1" in second.lines
    assert ends(first) == ["r1jax: process 0 of 2 ends: process 1 has ended"]


@pytest.mark.slow
def test_a_supervisor_starts_all_again_after_a_death(launch, checkpoint, cache, alone):
    coordinator, port = f"127.0.0.1:{free_port()}", free_port()
    command = [*flags(checkpoint(QUICK), cache, port), "--coordinator", coordinator]
    supervisor = ROOT / "deploy" / "supervise.py"
    process = launch(supervisor, "--num-processes", 2, "--", sys.executable, *command)
    site = Site([process])
    with site.client:
        assert site.words(PROMPT) == alone(QUICK, PROMPT, 12)
        [started] = process.said("supervise: started process 1")
        os.kill(int(started.split()[-1]), signal.SIGKILL)
        process.wait_for("supervise: starts again in 1 s")
        while len(process.said("listening")) < 2:
            assert process.started.poll() is None
            time.sleep(0.05)
        assert site.words(PROMPT) == alone(QUICK, PROMPT, 12)
    process.kill(signal.SIGTERM)
    assert process.wait() == 0
