"""A server that answers sums at once, sometimes wrongly, and counts who asked."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SumServer(ThreadingHTTPServer):
    """Answers "a+b" in a box; with an odd seed one too much.

    `bodies` is what was asked, with `keys`; `refusals` holds (status, headers) that
    come first. `slow` is a time in seconds that each answer takes. With `tags` thoughts
    stand in the content, and `nonsense` is sent in place of JSON.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.tries = 0
        self.slow = 0.0
        self.keys: set[str | None] = set()
        self.tags = False
        self.nonsense = b""

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
        self.server.keys.add(self.headers["authorization"])
        if self.server.refusals:
            status, headers = self.server.refusals.pop(0)
            return self._reply(status, {"error": "busy"}, headers)
        threading.Event().wait(self.server.slow)
        self.server.bodies.append(body)
        return self._reply(200, completion(body, self.server.tags))

    def _reply(self, status, value, headers=None) -> None:
        text = self.server.nonsense or json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        for name, each in (headers or {}).items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(text)


def total(question):
    """Adds the first two numbers, which may be written as 1,234 or 1.234."""
    plain = re.sub(r"(?<=\d)[.,](?=\d{3})", "", question)
    return sum(map(int, re.findall(r"\d+", plain)[:2]))


def completion(body, tags):
    right = total(body["messages"][0]["content"])
    said = f"\\boxed{{{right + body['seed'] % 2}}}"
    message = {"content": said, "reasoning_content": "hm"}
    if tags:
        message = {"content": f"<think>\nhm\n</think>\n\n{said}"}
    choice = {"message": message, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"completion_tokens": 7}}
