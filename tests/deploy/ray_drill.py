"""Two replicas behind Ray Serve under load, one is killed: prints what was seen.

    python tests/deploy/ray_drill.py CHECKPOINT SECONDS

Needs `ray[serve]`, and `deploy` and `tests` on the path. The last line is an object:

    answered: requests that were answered whole, as the first of their prompt was
    answered_before: those of them before the kill
    wrong: that were answered whole, but otherwise
    lost: of each that was not, seconds from the kill to its start, and why
    in_flight: requests that had begun, and not ended, when the replica was killed
    replaced: seconds until two replicas served again
    left: processes of ours that are left after the end
"""

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import ray
from ray import serve
from ray_serve import Options, application

from hosts.processes import free_port

CLIENTS = 8
PATIENCE_SECONDS = 600
PROMPTS = ("The quick brown fox", "jumps over", "the lazy dog", "twice")
FLAGS = (
    "--max-num-seqs 4 --max-num-batched-tokens 16 --page-size 16 "
    "--served-model-name tiny --log-level warning --compilation-cache "
)


@dataclass
class Tally:
    """What became of the requests; times are of the monotonic clock."""

    wanted: dict[str, str] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)
    answers: list[bool] = field(default_factory=list)  # whether each was right
    lost: list[tuple[float, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


def ask(client: httpx.Client, prompt: str, stream: bool) -> str:
    """Gives the words of a whole answer; raises where it is not whole."""
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 32}
    body |= {"ignore_eos": True, "stream": stream}
    if not stream:
        response = client.post("/v1/completions", json=body)
        response.raise_for_status()
        return response.json()["choices"][0]["text"]
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    if lines[-1:] != ["data: [DONE]"]:
        raise ValueError("the stream was cut off")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def visit(url: str, tally: Tally, seed: int) -> None:
    """Asks again and again, as one client."""
    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=60) as client:
        while not tally.over.is_set():
            prompt, stream = rng.choice(PROMPTS), rng.random() < 0.5
            tally.running[seed] = began = time.monotonic()
            try:
                words = ask(client, prompt, stream)
                tally.answers.append(words == tally.wanted[prompt])
            except (httpx.HTTPError, ValueError) as error:
                tally.lost.append((began, str(error)))
            del tally.running[seed]


def guards(checkpoint: str) -> dict[int, int]:
    """Finds the guards of our servers, each with the replica that has started it."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            status = (folder / "stat").read_text()
        except OSError:  # has just ended
            continue
        if checkpoint in words and any(word.endswith("guard.py") for word in words):
            found[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    return found


def drill(url: str, checkpoint: str, seconds: float) -> dict[str, object]:
    """Loads, kills, waits for the replacement, and loads for a while again."""
    tally = Tally()
    with httpx.Client(base_url=url, timeout=60) as client:
        tally.wanted = {prompt: ask(client, prompt, False) for prompt in PROMPTS}
    clients = [
        threading.Thread(target=visit, args=(url, tally, seed))
        for seed in range(CLIENTS)
    ]
    for thread in clients:
        thread.start()
    time.sleep(seconds)
    before, victim = sum(tally.answers), next(iter(guards(checkpoint).values()))
    in_flight = len(tally.running)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    while len(at_work := guards(checkpoint)) < 2 or victim in at_work.values():
        check_patience(killed)
    while running() < 2:
        check_patience(killed)
    replaced = time.monotonic() - killed
    time.sleep(seconds)
    tally.over.set()
    for thread in clients:
        thread.join()
    return {
        "answered": sum(tally.answers),
        "answered_before": before,
        "wrong": len(tally.answers) - sum(tally.answers),
        "lost": [[round(began - killed, 2), why] for began, why in tally.lost],
        "in_flight": in_flight,
        "replaced": round(replaced, 1),
    }


def running() -> int:
    """Counts the replicas that serve, as Ray Serve sees them."""
    [deployment] = serve.status().applications["default"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def check_patience(since: float) -> None:
    """Pauses, unless it has lasted too long."""
    if time.monotonic() > since + PATIENCE_SECONDS:
        raise TimeoutError("no replica took the place of the one that was killed")
    time.sleep(0.2)


def main() -> None:
    """Starts Ray, and all the rest."""
    checkpoint, seconds = sys.argv[1], float(sys.argv[2])
    port = free_port()
    ray.init(num_cpus=4, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    with tempfile.TemporaryDirectory() as compiled:
        options = Options(
            source=checkpoint, flags=FLAGS + compiled, min_replicas=2, max_replicas=2
        )
        serve.run(application(options), route_prefix="/")
        seen = drill(f"http://127.0.0.1:{port}", checkpoint, seconds)
        serve.shutdown()
        ray.shutdown()
    time.sleep(2)
    sys.stdout.write(json.dumps({**seen, "left": len(guards(checkpoint))}) + "\n")


if __name__ == "__main__":
    main()
