"""Measures decoding and prefill on a CPU beside transformers and llama.cpp.

    python benchmarks/cpu_decode.py [--threads 2] [--rounds 5] [--peer-python PYTHON]

All engines compute in float32 with equal weights on the same cores, each in a process
of its own, and take turns: while one is measured the others sleep. Prints one JSON line
a result, then a table with the ratios.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import checkpoints
import cores
from workers import Worker, started

from r1jax.locate import SMOLLM2, locate

PEERS = Path(__file__).parent / "peers"
MODELS = ("smollm2", "deepseek-118m")
PROMPT, NEW, LONG, ROWS = 64, 64, 512, 8
# r1jax's speed over the peer's: what the project aims at.
GOALS = {
    ("smollm2", "transformers"): {"decode 1": 2.0, "decode 8": 1.4, "prefill": 1.2},
    ("smollm2", "llama.cpp"): {"decode 1": 0.8, "decode 8": 0.7, "prefill": 0.9},
    ("deepseek-118m", "transformers"): {
        "decode 1": 1.5,
        "decode 8": 1.5,
        "prefill": 1.0,
    },
}
_QUIET = 0.05  # a turn is disturbed if others took more of the cores' time
_PAUSE = 0.3  # seconds in which the last turn's threads fall asleep


@dataclass
class Samples:
    """What one peer reached in one measure.

    Attributes:
      speeds: Tokens (or bytes) in a second, round by round.
      others: The share of the cores' time that went to other processes, round by round.
    """

    speeds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


def commands(
    model: str, directory: Path, args: argparse.Namespace
) -> dict[str, list[Any]]:
    """Writes the model's files where missing; returns how to start each peer."""
    folder, gguf = directory / model, directory / f"{model}.gguf"
    if model == "smollm2":
        source = args.gguf or locate(SMOLLM2)
        if not folder.exists():
            checkpoints.write_smollm2(source, folder)
        if not gguf.exists():
            checkpoints.write_gguf(source, gguf)
    elif not folder.exists():
        checkpoints.write_deepseek(folder)
    threads, other = str(args.threads), args.peer_python
    found = {
        "r1jax": [sys.executable, PEERS / "r1jax_peer.py", folder],
        "transformers": [other, PEERS / "transformers_peer.py", folder, threads],
        "llama.cpp": [other, PEERS / "llama_cpp_peer.py", gguf, threads],
        "memory": [sys.executable, PEERS / "memory_peer.py", threads],
    }
    return {
        name: c for name, c in found.items() if name != "llama.cpp" or gguf.exists()
    }


def prompts(vocabulary: int) -> tuple[list[list[int]], list[int]]:
    """Returns the short prompts and the long one, the same in every run."""
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(16, vocabulary) for _ in range(count)]

    return [ids(PROMPT) for _ in range(ROWS)], ids(LONG)


def measures(vocabulary: int) -> dict[str, Callable[[Worker], float]]:
    """Returns what is measured of an engine, in tokens a second."""
    short, long = prompts(vocabulary)
    return {
        "decode 1": lambda w: NEW / w.ask("decode", prompts=short[:1], new=NEW)[0],
        "decode 8": lambda w: ROWS * NEW / w.ask("decode", prompts=short, new=NEW)[0],
        "prefill": lambda w: LONG / w.ask("prefill", prompt=long)[0],
    }


def take_turns(
    call: Callable[[Worker], float],
    asked: Sequence[Worker],
    held: Sequence[int],
    rounds: int,
    patience: float,
) -> dict[str, Samples]:
    """Measures the workers in turn, round by round.

    A turn waits for quiet cores, and is taken again if it was disturbed, while the
    patience (seconds for all of them) lasts.
    """
    for worker in asked:
        call(worker)  # the first time is slower
    results = {worker.name: Samples() for worker in asked}
    deadline = time.monotonic() + patience
    for _ in range(rounds):
        for worker in asked:
            speed, others = one_turn(call, worker, held, deadline)
            while others > _QUIET and time.monotonic() < deadline:
                speed, others = one_turn(call, worker, held, deadline)
            results[worker.name].speeds.append(speed)
            results[worker.name].others.append(others)
    return results


def one_turn(
    call: Callable[[Worker], float],
    worker: Worker,
    held: Sequence[int],
    deadline: float,
) -> tuple[float, float]:
    """Returns a worker's speed, and the others' share of the cores meanwhile.

    Waits for quiet cores until the deadline at most.
    """
    time.sleep(_PAUSE)
    while time.monotonic() < deadline and cores.busy_share(held) > _QUIET:
        time.sleep(_PAUSE)
    with cores.Watch(held, worker.pid) as watch:
        speed = call(worker)
    return speed, watch.others


def agreement(workers: dict[str, Worker], model: str) -> Iterator[dict[str, Any]]:
    """Compares each peer's logits and greedy tokens with r1jax's."""
    short, long = prompts(checkpoints.FIELDS[model]["vocab_size"])
    ours = workers["r1jax"]
    logits, answers = ours.ask("logits", prompt=long), _answers(ours, short)
    scale = max(map(abs, logits))
    for name in workers.keys() - {"r1jax", "memory"}:
        theirs = workers[name].ask("logits", prompt=long)
        same = [
            a == b
            for mine, other in zip(answers, _answers(workers[name], short), strict=True)
            for a, b in zip(mine, other, strict=True)
        ]
        yield {
            "model": model,
            "measure": "agreement",
            "peer": name,
            "logits_difference": max(
                abs(a - b) for a, b in zip(logits, theirs, strict=True)
            )
            / scale,
            "equal_tokens": sum(same),
            "tokens": len(same),
        }


def _answers(worker: Worker, short: list[list[int]]) -> list[list[int]]:
    answers: list[list[int]] = worker.ask("decode", prompts=short, new=NEW)[1]
    return answers


def results(
    workers: dict[str, Worker],
    model: str,
    held: Sequence[int],
    args: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Measures a model and the memory; yields the JSON lines as they come."""
    fields = checkpoints.FIELDS[model]
    needed = checkpoints.bytes_read(fields)
    memory = workers.pop("memory")
    limits = (args.rounds, args.patience)
    speeds = {}
    for what in ("read", "copy"):
        ask = partial(Worker.ask, measure=what)
        samples = take_turns(ask, [memory], held, *limits)["memory"]
        speeds[what] = median(samples.speeds)
        yield {
            "model": model,
            "measure": f"memory {what}",
            "gb_per_second": round(speeds[what] / 1e9, 1),
        }
    for measure, call in measures(fields["vocab_size"]).items():
        taken = take_turns(call, list(workers.values()), held, *limits)
        for peer, samples in taken.items():
            line: dict[str, Any] = {
                "model": model,
                "measure": measure,
                "peer": peer,
                "tokens_per_second": round(median(samples.speeds), 1),
                "rounds": [round(speed, 1) for speed in samples.speeds],
                "others": round(max(samples.others), 3),
            }
            if measure == "decode 1":
                fraction = median(samples.speeds) * needed / speeds["read"]
                line["of_read_bandwidth"] = round(fraction, 2)
            if peer != "r1jax":
                line["ratio"] = round(ratio(taken["r1jax"], samples), 2)
                line["goal"] = GOALS[model, peer][measure]
            yield line


def ratio(ours: Samples, theirs: Samples) -> float:
    """Returns the median of the rounds' ratios: a slow round slows both."""
    return median(a / b for a, b in zip(ours.speeds, theirs.speeds, strict=True))


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Lays the results out for reading."""
    form = "{:<14} {:<9} {:<13} {:>9} {:>9} {:>9} {:>6} {:>5}  {}\n"
    heads = ("tokens/s", "best", "disturbed", "ratio", "goal", "")
    out = form.format("model", "measure", "engine", *heads)
    for line in lines:
        if "tokens_per_second" not in line:
            continue
        over, goal = line.get("ratio"), line.get("goal")
        verdict = "" if over is None else "reached" if over >= goal else "missed"
        out += form.format(
            line["model"],
            line["measure"],
            line["peer"],
            line["tokens_per_second"],
            max(line["rounds"]),
            f"{line['others']:.0%}",
            over or "",
            goal or "",
            verdict,
        )
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=MODELS)
    add("--threads", type=int, default=2, help="cores for every engine (%(default)s)")
    add("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    add("--patience", type=float, default=60, help=_PATIENCE)
    add("--peer-python", default=sys.executable, help="has the `bench` extra")
    add(
        "--gguf",
        type=Path,
        help="SmolLM2-135M-Instruct; the `demo` extra's if left out",
    )
    add("--directory", type=Path, help="keeps the written weights for the next run")
    return parser


_PATIENCE = "seconds each measure may wait for, or try again in, quiet (%(default)s)"


def main() -> None:
    """Runs the benchmark."""
    args = _parser().parse_args()
    held = cores.take(args.threads)
    printed: list[dict[str, Any]] = []

    def say(line: dict[str, Any]) -> None:
        printed.append({"benchmark": "cpu_decode", **line})
        print(json.dumps(printed[-1]), flush=True)

    with contextlib.ExitStack() as stack:
        directory = args.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        for model in args.models:
            found = commands(model, directory, args)
            with started(found, directory) as workers:
                versions = {name: w.version for name, w in workers.items()}
                load = os.getloadavg()[0]
                say({"model": model, "cores": held, "load": load, "versions": versions})
                for line in agreement(workers, model):
                    say(line)
                for line in results(workers, model, held, args):
                    say(line)
    print("\n" + table(printed), end="")


if __name__ == "__main__":
    main()
