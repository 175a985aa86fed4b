"""Programs that run beside the tests, and the site that several of them serve."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).parents[2]
# Goldens: one is dense and quick to compile, one R1, with 4 heads and 16 experts.
QUICK, R1 = "llama", "deepseek_yarn"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def connected() -> tuple[socket.socket, socket.socket]:
    """Gives the two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


def make_checkpoint(folder: Path) -> Path:
    """Makes the golden of the folder's name a model of words: the printable letters."""
    shutil.copytree(ROOT / "tests" / "goldens" / folder.name, folder)
    letters = ["Ġ", *map(chr, range(33, 127)), "Ċ"]
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


class Process:
    """A program that runs; its lines are gathered as they come."""

    def __init__(
        self, command: Sequence[object], path: Sequence[Path] = (ROOT,)
    ) -> None:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
        }
        self.started = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.pid = self.started.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.started.stdout is not None
        with self.started.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())

    def kill(self, number: int) -> None:
        self.started.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Waits for the end and for the last line; gives the exit code."""
        code = self.started.wait(seconds)
        self._reader.join(5)
        return code

    def said(self, start: str) -> list[str]:
        return [line for line in self.lines if line.startswith(start)]

    def wait_for(self, start: str, seconds: float = 120) -> str:
        """Waits for a line and gives the rest of it."""
        deadline = time.monotonic() + seconds
        while not self.said(start):
            alive = self.started.poll() is None
            assert alive or self.said(start), "\n".join(self.lines)
            assert time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.02)
        return self.said(start)[-1].removeprefix(start).strip()


class Site:
    """Several processes that serve one model."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.url = processes[0].wait_for("listening")
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def words(self, prompt: str, **body: object) -> str:
        """Gives the likeliest answer to a prompt."""
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 12, **body}
        response = self.client.post("/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["text"]

    def stream(self, prompt: str, **body: object) -> Iterator[dict]:
        """Gives the chunks of a streamed answer as they come, an error too."""
        body = {"prompt": prompt, "temperature": 0, "stream": True, **body}
        with self.client.stream("POST", "/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    def codes(self, seconds: float = 30) -> list[int]:
        """Waits until all have ended; gives their exit codes."""
        return [process.wait(seconds) for process in self.processes]


def flags(checkpoint: Path, cache: Path, port: int = 0) -> list[object]:
    """The small server that all tests here run."""
    sizes = ("--max-num-seqs", 2, "--max-num-batched-tokens", 8, "--page-size", 16)
    return [
        "-m",
        "r1jax.serve",
        checkpoint,
        "--port",
        port,
        "--compilation-cache",
        cache,
        *sizes,
    ]
