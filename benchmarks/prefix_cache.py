"""Measures how much sooner a prompt is answered whose beginning is in the cache.

    python benchmarks/prefix_cache.py [SOURCE] [--shared 2000] [--own 20] [--rounds 5]

In each round two requests of random tokens, which have the first SHARED of them in
common, come one after the other to an idle engine. Prints one JSON line: the medians of
the seconds to their first tokens, of the second's to the first's, and what was found.
"""

import argparse
import json
import queue
import time
from statistics import median
from typing import Any

import jax
import numpy as np

import r1jax
from r1jax.engine.loop import Engine
from r1jax.engine.types import Event, SamplingParams

GOAL = 0.2  # the second's time over the first's, at most
_PATIENCE = 300.0
_ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


def first_token(engine: Engine, prompt: list[int]) -> tuple[float, int]:
    """Returns the seconds to a prompt's first token, and how much of it was found."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    start = time.perf_counter()
    engine.submit(prompt, _ONE_TOKEN, events.put)
    event = events.get(timeout=_PATIENCE)
    return time.perf_counter() - start, event.cached_tokens


def measure(
    engine: Engine, shared: int, own: int, rounds: int, seed: int
) -> dict[str, Any]:
    """Asks pairs of prompts; one more pair is asked first and not counted."""
    random = np.random.default_rng(seed)
    firsts, seconds, found = [], [], 0
    for _ in range(rounds + 1):
        sizes = shared, own, own
        head, *tails = (
            random.integers(engine.config.vocab_size, size=n).tolist() for n in sizes
        )
        first, _ = first_token(engine, head + tails[0])
        second, found = first_token(engine, head + tails[1])
        firsts.append(first)
        seconds.append(second)
    ratios = [b / a for a, b in zip(firsts[1:], seconds[1:], strict=True)]
    return {
        "shared": shared,
        "own": own,
        "rounds": rounds,
        "found": found,
        "first_s": round(median(firsts[1:]), 4),
        "second_s": round(median(seconds[1:]), 4),
        "ratio": round(median(ratios), 3),
        "goal": GOAL,
    }


def main() -> None:
    """Loads a model and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?", default="smollm2", help="as of r1jax.load")
    parser.add_argument("--shared", type=int, default=2000, help="tokens in common")
    parser.add_argument("--own", type=int, default=20, help="tokens behind them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    llm = r1jax.load(args.source)
    llm.engine.wait_until_compiled()
    row = measure(llm.engine, args.shared, args.own, args.rounds, args.seed)
    llm.close()
    device = jax.devices()[0].device_kind
    print(json.dumps({"model": llm.name, "device": device, **row}))


if __name__ == "__main__":
    main()
