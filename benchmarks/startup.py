"""Measures the time from starting the server to the first token of an answer.

    python benchmarks/startup.py [SOURCE] [--rounds 3]

Starts `python -m r1jax.serve` with an empty compilation cache, then with the one that
this start has filled. Each time it streams one chat answer, waits until `/health` says
that every shape is compiled, and stops the server. Prints one JSON line with the
medians.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from statistics import median
from urllib.parse import urlsplit

GOAL = 10.0  # seconds to the first token with a warm cache
_PATIENCE = 300.0  # seconds for anything the server is asked
_QUESTION = {"role": "user", "content": "What is the capital of France?"}


@contextlib.contextmanager
def server(arguments: Sequence[str], cache: str) -> Iterator[str]:
    """Runs a server as long as the context lasts; gives its host and port.

    Raises:
      ChildProcessError: It ended before it listened.
    """
    command = [sys.executable, "-m", "r1jax.serve", *arguments, "--port", "0"]
    command += ["--compilation-cache", cache]
    # JAX's own setting would have precedence.
    environment = dict(os.environ)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        yield _address(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if line.startswith("listening"):
            return urlsplit(line.split()[1]).netloc
    raise ChildProcessError(f"the server ended with {process.wait()}")


def wait_until_healthy(address: str) -> None:
    """Asks `/health` until it says yes."""
    status = None
    while status != HTTPStatus.OK:
        time.sleep(0.02)
        connection = http.client.HTTPConnection(address, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            status = connection.getresponse().status


def wait_for_token(address: str) -> None:
    """Streams a chat answer up to its first piece of text.

    Raises:
      ValueError: The stream ended without one.
    """
    body = {"messages": [_QUESTION], "stream": True, "max_tokens": 16}
    connection = http.client.HTTPConnection(address, timeout=_PATIENCE)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        for line in connection.getresponse():
            data = line.decode().removeprefix("data: ").strip()
            choices = json.loads(data)["choices"] if data.startswith("{") else ()
            for choice in choices:
                delta = choice["delta"]
                if delta.get("content") or delta.get("reasoning_content"):
                    return
    raise ValueError("the stream ended without a token")


def start_once(arguments: Sequence[str], cache: str) -> dict[str, float]:
    """Returns the seconds from starting a server to its health and to a token."""
    start = time.perf_counter()
    with server(arguments, cache) as address:
        wait_for_token(address)
        token = time.perf_counter() - start
        wait_until_healthy(address)
        healthy = time.perf_counter() - start
    return {"healthy": healthy, "first_token": token}


def main() -> None:
    """Prints the JSON line; unknown arguments go to the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    options, arguments = parser.parse_known_args()
    starts: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                for event, seconds in start_once(arguments, cache).items():
                    starts.setdefault(f"{state}_{event}_seconds", []).append(seconds)
    line = {name: round(median(seconds), 2) for name, seconds in starts.items()}
    reached = line["warm_first_token_seconds"] < GOAL
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "server": arguments,
                **line,
                "load": round(os.getloadavg()[0], 1),
                "goal_seconds": GOAL,
                "reached": reached,
            }
        )
    )


if __name__ == "__main__":
    main()
