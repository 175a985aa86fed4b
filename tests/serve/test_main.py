"""The command: what it says, how it refuses, how it stops."""

import json
import os
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from r1jax.errors import CheckpointError
from r1jax.serve import __main__ as command


@pytest.fixture
def load(llm, monkeypatch):
    """Loads the fake model; keeps the arguments it was asked with."""
    calls = []

    def fake_load(source, **arguments):
        calls.append((source, arguments))
        return llm

    monkeypatch.setattr(command, "load", fake_load)
    return calls


@pytest.fixture(autouse=True)
def _signals():
    """Gives the process its own signal handlers back."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Visitor(threading.Thread):
    """Runs a visit once the server has said where it listens, then a signal."""

    def __init__(self, monkeypatch, visit, number=signal.SIGTERM):
        super().__init__()
        self.visit, self.number = visit, number
        self.seen = None
        self.said = threading.Event()
        startup = command._Server.startup

        async def startup_and_tell(server, sockets):
            await startup(server, sockets)
            self.url = "http://{}:{}".format(*sockets[0].getsockname()[:2])
            self.said.set()

        monkeypatch.setattr(command._Server, "startup", startup_and_tell)
        self.start()

    def run(self):
        assert self.said.wait(10)
        try:
            self.seen = self.visit(self.url)
        finally:
            os.kill(os.getpid(), self.number)


def once_asked(llm, act, *arguments):
    """Acts, on a thread, once the engine has a request."""

    def wait_and_act():
        while not llm.engine.prompts:
            time.sleep(0.005)
        time.sleep(0.05)
        act(*arguments)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal_and_exits_well(load, monkeypatch, capsys, number):
    visitor = Visitor(monkeypatch, lambda url: httpx.get(f"{url}/v1/models"), number)
    assert command.main(["--port", "0", "--max-num-seqs", "4", "some/model"]) == 0
    visitor.join()
    assert visitor.seen.json()["data"][0]["id"] == "some/model"
    assert load == [("some/model", {"max_num_seqs": 4})]
    said = capsys.readouterr().out
    for row in (
        "model +some/model",
        "parameters +1,234",
        "dtype +float32",
        r"device +\w+",
        "context +256 tokens",
        "cache +384 tokens",
    ):
        assert re.search(f"^{row}$", said, re.MULTILINE)
    assert re.search(rf"^listening +{visitor.url}/v1$", said, re.MULTILINE)


def test_tensor_parallel_size_makes_a_mesh(load, monkeypatch):
    visitor = Visitor(monkeypatch, lambda url: None)
    assert command.main(["--port", "0", "--tensor-parallel-size", "2"]) == 0
    visitor.join()
    [(_, arguments)] = load
    assert dict(arguments["mesh"].shape) == {"data": 1, "tensor": 2}


def test_the_way_of_guessing_reaches_the_model(load, monkeypatch):
    visitor = Visitor(monkeypatch, lambda url: None)
    text = '{"method": "ngram", "num_speculative_tokens": 5}'
    assert command.main(["--port", "0", "--speculative-config", text]) == 0
    visitor.join()
    [(_, arguments)] = load
    assert arguments == {"draft": "ngram", "num_draft_tokens": 5}


def test_expert_flags_reach_the_model(load, monkeypatch):
    visitor = Visitor(monkeypatch, lambda url: None)
    flags = ["--redundant-experts", "32", "--expert-loads", "loads.json"]
    assert command.main(["--port", "0", *flags]) == 0
    visitor.join()
    [(_, arguments)] = load
    assert arguments == {"redundant_experts": 32, "expert_loads": "loads.json"}


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--enable-prefix-caching", {"prefix_caching": True}),
        ("--no-enable-prefix-caching", {"prefix_caching": False}),
    ],
)
def test_prefix_caching_can_be_switched(load, monkeypatch, flag, given):
    visitor = Visitor(monkeypatch, lambda url: None)
    assert command.main(["--port", "0", flag]) == 0
    visitor.join()
    assert [arguments for _, arguments in load] == [given]


def test_more_devices_than_there_are_is_refused(load, capsys):
    assert command.main(["--port", "0", "--tensor-parallel-size", "999"]) == 2
    assert "it needs 999 devices" in capsys.readouterr().err


def test_the_curl_line_is_right(load, monkeypatch, capsys):
    def visit(url):
        line = capsys.readouterr().out.splitlines()[-1]
        address, _, body = re.fullmatch(
            r"try:  curl (\S+) -H 'Content-Type: (\S+)' -d '(.*)'", line
        ).groups()
        return httpx.post(address, json=json.loads(body))

    visitor = Visitor(monkeypatch, visit)
    command.main(["--port", "0"])
    visitor.join()
    assert visitor.seen.status_code == 200


def test_running_requests_may_finish(load, llm, monkeypatch):
    llm.engine.pace = 0.01

    def visit(url):
        body = {"prompt": "a", "max_tokens": 60, "stream": True}
        self_kill = once_asked(llm, os.kill, os.getpid(), signal.SIGTERM)
        text = httpx.post(f"{url}/v1/completions", json=body, timeout=20).text
        self_kill.join()
        return text

    visitor = Visitor(monkeypatch, visit)
    assert command.main(["--port", "0"]) == 0
    visitor.join()
    assert visitor.seen.endswith("data: [DONE]\n\n")
    assert llm.engine.finished == ["stop"] or llm.engine.finished == ["length"]


def test_newcomers_are_sent_elsewhere_while_others_finish(load, llm, monkeypatch):
    llm.engine.go.clear()

    def visit(url):
        ask = {"prompt": "a", "max_tokens": 9}
        asked = threading.Thread(
            target=lambda: seen.append(httpx.post(f"{url}/v1/completions", json=ask))
        )
        seen = []
        asked.start()
        once_asked(llm, os.kill, os.getpid(), signal.SIGTERM)
        while (health := httpx.get(f"{url}/health")).status_code == 200:
            time.sleep(0.005)
        seen += [health, httpx.post(f"{url}/v1/completions", json=ask)]
        llm.engine.go.set()
        asked.join()
        return seen

    visitor = Visitor(monkeypatch, visit)
    assert command.main(["--port", "0"]) == 0
    visitor.join()
    health, refused, finished = visitor.seen
    assert health.status_code == 503
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert int(refused.headers["retry-after"]) > 0
    assert finished.status_code == 200


def test_requests_that_take_too_long_are_told_why(load, llm, monkeypatch):
    llm.engine.go.clear()

    def visit(url):
        once_asked(llm, os.kill, os.getpid(), signal.SIGTERM)
        return httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, timeout=20)

    visitor = Visitor(monkeypatch, visit)
    assert command.main(["--port", "0", "--shutdown-timeout", "0"]) == 0
    visitor.join()
    assert visitor.seen.status_code == 503
    assert visitor.seen.json()["error"]["code"] == "shutting_down"
    assert llm.engine.finished == ["abort"]


def refused(capsys, *arguments):
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    what, why, fix = captured.err.splitlines()
    assert why.startswith("  why: ")
    assert fix.startswith("  fix: ")
    return what


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot"),
        (["--port", "x"], "argument --port: invalid whole_number value: 'x'"),
        (["--max-num-seqs", "0"], "argument --max-num-seqs: 0 is less than 1"),
        (["--port", "70000"], "argument --port: 70000 is more than 65535"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
    ],
)
def test_bad_flags_are_refused_in_three_lines(load, capsys, arguments, what):
    assert refused(capsys, *arguments).startswith(what)
    assert not load


def test_a_taken_port_is_refused_before_the_model_is_loaded(load, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert refused(capsys, "--port", port).endswith(f"port {port}")
    assert not load


def test_a_bad_source_is_refused_in_three_lines(capsys, monkeypatch):
    def fail(source, **arguments):
        raise CheckpointError(f"there is nothing at {source}", "no such path", "see")

    monkeypatch.setattr(command, "load", fail)
    assert refused(capsys, "--port", "0", "nowhere") == "there is nothing at nowhere"


def test_a_failed_engine_ends_the_server_and_its_requests(
    load, llm, monkeypatch, capsys
):
    llm.engine.pace = 0.01

    def visit(url):
        once_asked(llm, setattr, llm.engine, "failure", "out of memory")
        body = {"prompt": "a", "max_tokens": 500}
        return httpx.post(f"{url}/v1/completions", json=body, timeout=20)

    visitor = Visitor(monkeypatch, visit)
    assert command.main(["--port", "0"]) == 1
    visitor.join()
    assert visitor.seen.status_code == 503
    assert "out of memory" in visitor.seen.json()["error"]["message"]
    logged, said = capsys.readouterr().err.splitlines()
    assert "status=503" in logged
    assert said == "r1jax: the server ends: out of memory"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--coordinator", "h:1"], "--coordinator without --num-processes and"),
        (["--process-id", "0", "--num-processes", "2"], "--num-processes and --proc"),
    ],
)
def test_half_a_cluster_is_refused(load, capsys, arguments, what):
    assert refused(capsys, *arguments).startswith(what)
    assert not load


def test_a_coordinator_that_is_not_there_is_refused(load, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ("--coordinator", address, "--num-processes", "2", "--process-id", "1")
    what = refused(capsys, *flags, "--initialization-timeout", "1")
    assert what == f"process 1 cannot reach process 0 at {address}"
    assert not load
