"""Converts fp8 weights of R1's real shapes, beside copying the same files.

    python benchmarks/convert_speed.py [--rounds 3] [--directory /tmp]

Writes 2.8 GB of random fp8 weights with DeepSeek-R1's shapes: three dense layers and
one with 8 of its 256 experts, and an eighth of its vocabulary. Then in turn, round by
round: a copy of the files (in the kernel, `sendfile`), and a conversion to each dtype
with `python -m r1jax.convert` on two cores, each into a new directory of the same
disk. The files are in the page cache; everything is timed until it returns, and until
the disk has what was written. Prints one JSON line for each: the medians, the bytes
read and written a second, their ratio to the copy's in the same round, the processor's
seconds, the share of the cores that others took, and the peak memory. Everything it
wrote is deleted.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cores
from convert_memory import CONFIG, write_checkpoint

R1 = CONFIG | {
    "vocab_size": 16160,
    "hidden_size": 7168,
    "num_hidden_layers": 4,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 0,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 2048,
    "n_group": 4,
    "topk_group": 2,
}
DTYPES = ("bfloat16", "fp8_blocks", "int8")
COPY = "copy"
ROOT = Path(__file__).parents[1]
_COPY = """
import shutil, sys
from pathlib import Path
target = Path(sys.argv[2])
target.mkdir()
for file in Path(sys.argv[1]).iterdir():
    shutil.copyfile(file, target / file.name)
"""
_CONVERT = """
import sys
from r1jax.convert import main
source, output, dtype = sys.argv[1:]
code = main(["--input", source, "--output", output, "--dtype", dtype])
assert code == 0
"""
# Linux's own words for the most memory held and for the time that was used.
_FIGURES = """
import os
print(open("/proc/self/status").read(), "CPU:", sum(os.times()[:2]))
"""


def run(what: str, source: Path, directory: Path) -> dict[str, float]:
    """Copies or converts once, in a process of its own."""
    output = directory / what
    code = (_COPY if what == COPY else _CONVERT) + _FIGURES
    more = [] if what == COPY else [what]
    command = [sys.executable, "-c", code, str(source), str(output), *more]
    paths = f"{ROOT}:{ROOT / 'tools'}"
    os.sync()
    pinned = sorted(os.sched_getaffinity(0))
    busy, began = cores.busy_seconds(pinned), time.perf_counter()
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    seconds = time.perf_counter() - began
    busy = cores.busy_seconds(pinned) - busy
    os.sync()
    synced = time.perf_counter() - began
    files = [path for path in output.rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    shutil.rmtree(output)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    used = re.search(r"CPU: (\S+)", done.stdout)
    assert peak
    assert used
    return {
        "seconds": seconds,
        "synced_seconds": synced,
        "written_bytes": written,
        "cpu_seconds": float(used[1]),
        "others": max(busy - float(used[1]), 0) / (seconds * len(pinned)),
        "peak_bytes": int(peak[1]) * 1024,
    }


def summary(
    what: str, runs: list[dict[str, float]], copies: list[dict[str, float]], read: int
) -> dict[str, Any]:
    """Returns the medians, and of the ratios to the copy of the same round."""

    def rates(rounds: list[dict[str, float]], key: str) -> list[float]:
        return [(read + r["written_bytes"]) / r[key] for r in rounds]

    def ratio(key: str) -> float:
        pairs = zip(rates(runs, key), rates(copies, key), strict=True)
        return round(statistics.median(own / copy for own, copy in pairs), 2)

    medians = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    return {
        "benchmark": "convert_speed",
        "what": what,
        "read_bytes": read,
        "written_bytes": int(medians["written_bytes"]),
        "seconds": round(medians["seconds"], 1),
        "synced_seconds": round(medians["synced_seconds"], 1),
        "mb_per_second": round(statistics.median(rates(runs, "seconds")) / 1e6),
        "of_copy": ratio("seconds"),
        "of_copy_synced": ratio("synced_seconds"),
        "cpu_seconds": round(medians["cpu_seconds"], 1),
        "others": round(medians["others"], 2),
        "peak_mb": round(medians["peak_bytes"] / 1e6),
    }


def main() -> None:
    """Prints one JSON line for the copy and for each dtype."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--directory", help="where to write; default: the system's")
    arguments = parser.parse_args()
    cores.take(2)
    runs: dict[str, list[dict[str, float]]] = {w: [] for w in (COPY, *DTYPES)}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        source = Path(directory) / "hf"
        source.mkdir()
        read = write_checkpoint(source, R1)
        for _ in range(arguments.rounds):
            for what, done in runs.items():
                done.append(run(what, source, Path(directory)))
    for what, done in runs.items():
        line = summary(what, done, runs[COPY], read)
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
