"""Measures what the server's own work costs a token: everything but the engine's step.

    python benchmarks/server_cost.py [--streams 32 256] [--tokens 200] [--step-ms 20]

An engine that recites feeds every sequence one token a step, as the real one does, to
the real application over real sockets; a process of its own reads the answers. The CPU
time of the server's process, less that of the same recital without a server, is divided
by the tokens. Parsing requests, rendering and tokenising prompts are counted in. Prints
one JSON line for each number of streams and each kind of answer.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from r1jax.config import ModelConfig
from r1jax.engine.types import EngineOptions, EngineStats, Event, SamplingParams
from r1jax.llm import LLM
from r1jax.locate import SMOLLM2, locate
from r1jax.serve.app import ServeOptions, create_app
from r1jax.text.tokenizer import Tokenizer
from r1jax.weights.gguf import GgufCheckpoint

GOAL = 50.0  # microseconds a token at 32 streams
_TEXT = "The sky is blue because air scatters short waves of light more than long. "
OnEvent = Callable[[Event], None]
Found = tuple[Tokenizer, ModelConfig]


class Reciter:
    """Gives each sequence the next token of one text, all of them once a step."""

    failure: str | None = None

    def __init__(self, tokens: Sequence[int], step: float) -> None:
        """Takes what to recite, and the seconds of a step."""
        self.options = EngineOptions(max_model_len=4096)
        self.max_model_len = 4096
        self._tokens, self._step = tokens, step
        self._live: dict[int, tuple[int, int, OnEvent]] = {}
        self._news: list[tuple[int, int, OnEvent]] = []
        self._next = 0
        self._gone: list[int] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        on_event: OnEvent,
        guide: None = None,
    ) -> int:
        """Takes a sequence in at the next step."""
        self._next += 1
        self._news.append((self._next, sampling.max_tokens or 16, on_event))
        return self._next

    def cancel(self, request_id: int) -> None:
        """Drops a sequence."""
        self._gone.append(request_id)

    def stats(self) -> EngineStats:
        """Returns the counters, all zero."""
        return EngineStats()

    def close(self) -> None:
        """Stops the thread."""
        self._closing = True
        self._thread.join()

    def _run(self) -> None:
        due = time.perf_counter()
        while not self._closing:
            due += self._step
            time.sleep(max(due - time.perf_counter(), 0))
            while self._news:
                number, limit, on_event = self._news.pop()
                self._live[number] = 0, limit, on_event
            while self._gone:
                self._live.pop(self._gone.pop(), None)
            for number, (at, limit, on_event) in list(self._live.items()):
                token = self._tokens[at % len(self._tokens)]
                last = at + 1 == limit
                on_event(Event(number, token, finish="length" if last else None))
                if last:
                    del self._live[number]
                else:
                    self._live[number] = at + 1, limit, on_event


class Model:
    """What the server sees of a loaded model."""

    reasoning = False
    default_sampling = SamplingParams()
    render = LLM.render

    def __init__(self, found: Found, engine: Reciter) -> None:
        """Joins the two."""
        self.tokenizer, self.config = found
        self.engine = engine


def recital(tokens: Sequence[int], streams: int, count: int, step: float) -> float:
    """Returns the CPU seconds of reciting to nobody."""
    engine, left, done = Reciter(tokens, step), [streams], threading.Event()

    def hear(event: Event) -> None:
        if event.finish:
            left[0] -= 1
            if not left[0]:
                done.set()

    start = time.process_time()
    for _ in range(streams):
        engine.submit([1], SamplingParams(max_tokens=count), hear)
    done.wait()
    spent = time.process_time() - start
    engine.close()
    return spent


async def _read_answers(port: int, streams: int, body: bytes) -> None:
    """Sends one request on each of so many connections and reads to their ends."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(body)
        seen = b""
        while data := await reader.read(65536):
            seen = (seen if len(seen) < 4096 else seen[:200]) + data
        if not seen.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(seen[:500].decode(errors="replace"))
        writer.close()

    await asyncio.gather(*(one() for _ in range(streams)))


def read_answers(port: int, streams: int, body: bytes, line: Any) -> None:
    """Is the process of the clients: says when it is ready, waits, reads, says so."""
    line.send("ready")
    line.recv()
    asyncio.run(_read_answers(port, streams, body))
    line.send("done")


def request(path: str, stream: bool, tokens: int) -> bytes:
    """Writes one HTTP request."""
    body: dict[str, Any] = {"max_tokens": tokens, "stream": stream}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": _TEXT}]
    else:
        body["prompt"] = _TEXT
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def serve(
    found: Found, streams: int, count: int, step: float, body: bytes, loop: Any
) -> float:
    """Returns the CPU seconds of serving the same recital."""
    engine = Reciter(found[0].encode(_TEXT * 20), step)
    model: Any = Model(found, engine)
    app = create_app(model, ServeOptions(names=["recital"]))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, loop=loop))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    spent = 0.0
    for counted in (False, True):  # the first round fills caches
        many = streams if counted else 2
        ours, theirs = context.Pipe()
        client = context.Process(target=read_answers, args=(port, many, body, theirs))
        client.start()
        theirs.close()
        ours.recv()
        start = time.process_time()
        ours.send("go")
        try:
            ours.recv()
        except EOFError:
            sys.exit("a client was refused")
        spent = time.process_time() - start
        client.join()
    server.should_exit = True
    thread.join()
    engine.close()
    return spent


def main() -> None:
    """Prints the JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--tokens", type=int, default=200, help="of each answer")
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--loop", default="auto", help="uvloop or asyncio")
    options = parser.parse_args()
    file = GgufCheckpoint(locate(SMOLLM2))
    found = Tokenizer.from_gguf_fields(file.tokenizer_fields), file.config
    count, step = options.tokens, options.step_ms / 1000
    ids = found[0].encode(_TEXT * 20)
    for streams in options.streams:
        base = recital(ids, streams, count, step)
        for path, stream in (
            ("/v1/chat/completions", True),
            ("/v1/completions", True),
            ("/v1/chat/completions", False),
        ):
            body = request(path, stream, count)
            whole = serve(found, streams, count, step, body, options.loop)
            micros = 1e6 * (whole - base) / (streams * count)
            line = {
                "streams": streams,
                "path": path,
                "stream": stream,
                "microseconds_a_token": round(micros, 1),
                "recital_microseconds_a_token": round(
                    1e6 * base / (streams * count), 1
                ),
                "goal": GOAL if streams == 32 else None,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
