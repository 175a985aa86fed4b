"""A server that answers sums at once, sometimes wrongly, and counts who asked."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class SumServer(ThreadingHTTPServer):
    """Answers "a+b" in a box; with an odd seed one too much.

    `bodies` is what was asked; `refusals` holds (status, headers) that come first.
    `slow` is a time in seconds that each answer takes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.tries = 0
        self.slow = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: SumServer

    def log_message(self, *_) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "adder"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.tries += 1
        if self.server.refusals:
            status, headers = self.server.refusals.pop(0)
            return self._reply(status, {"error": "busy"}, headers)
        threading.Event().wait(self.server.slow)
        self.server.bodies.append(body)
        return self._reply(200, completion(body))

    def _reply(self, status, value, headers=None) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        for name, each in (headers or {}).items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(text)


def completion(body):
    a, b = map(int, re.findall(r"\d+", body["messages"][0]["content"])[:2])
    said = f"\\boxed{{{a + b + body['seed'] % 2}}}"
    message = {"content": said, "reasoning_content": "hm"}
    choice = {"message": message, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"completion_tokens": 7}}


@pytest.fixture
def sums():
    """A running server of sums."""
    server = SumServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def problems(tmp_path):
    """A file of ten sums."""
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{n}+{n}?", "answer": str(2 * n)} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
