"""What the host does between device steps, beside what the device does in one.

Streams of SmolLM2 decode together; the engine plans and starts step n + 1 while step n
runs. Printed as one JSON line: a step's time; the host's own time for it (planning,
packing, starting, handing tokens out), which is all time not spent waiting for the
device; its share; and in how many steps the device had nothing left to do when the
host came with the next one.

    python benchmarks/host_time.py --streams 32
"""

import argparse
import itertools
import json
import threading
from statistics import median
from time import perf_counter
from typing import Any

import jax

import r1jax
from r1jax.engine.types import Event

PROMPT, NEW = 128, 192
SKIPPED = 16  # steps after the last prompt


class Watch:
    """Times the engine's thread from outside, step by step."""

    def __init__(self, engine: Any) -> None:
        """Wraps what starts a step and what waits for one."""
        self.steps: list[tuple[float, float, bool]] = []  # start, waited before, late
        self._waited = 0.0
        self._last: Any = None
        runner, get = engine._runner, jax.device_get
        dispatch = runner.dispatch

        def started(plan: Any, *rest: Any) -> Any:
            outputs = dispatch(plan, *rest)
            # Judged after the start: the device then has this step's inputs as well.
            late = self._last is not None and self._last.is_ready()
            self.steps.append((perf_counter(), self._waited, late))
            self._last = outputs["token"]
            return outputs

        def waited(tree: Any) -> Any:
            begin = perf_counter()
            result = get(tree)
            self._waited += perf_counter() - begin
            return result

        runner.dispatch, jax.device_get = started, waited


def main() -> None:
    """Runs the streams once and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=32)
    streams = parser.parse_args().streams
    llm = r1jax.load("smollm2", max_num_seqs=streams, max_model_len=512)
    engine = llm.engine
    engine.wait_until_compiled()
    watch = Watch(engine)
    left, ended = streams, threading.Event()

    def on_event(event: Event) -> None:
        nonlocal left
        left -= event.finish is not None
        if not left:
            ended.set()

    sampling = r1jax.SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    for i in range(streams):
        engine.submit([100 + i] * PROMPT, sampling, on_event)
    ended.wait()
    llm.close()
    steady = watch.steps[-(NEW - SKIPPED) // 2 :]
    pairs = list(itertools.pairwise(steady))
    step = [b[0] - a[0] for a, b in pairs]
    host = [(b[0] - a[0]) - (b[1] - a[1]) for a, b in pairs]
    line = {
        "streams": streams,
        "step_ms": round(1e3 * median(step), 2),
        "host_ms": round(1e3 * median(host), 3),
        "share": round(median(host) / median(step), 4),
        "late": round(sum(late for _, _, late in steady) / len(steady), 3),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
