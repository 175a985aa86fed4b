"""Malformed requests without end, each with the manners of the client that sends it.

`attacks(seed)` yields the same ones for the same seed, in turn of every kind.
"""

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PATHS = ("/v1/chat/completions", "/v1/completions")
_HUGE = 100 * 2**20


@dataclass
class Attack:
    """What is sent, and how.

    Attributes:
      kind: What is wrong with it.
      pieces: The bytes, sent one piece after the other.
      pause: Seconds between pieces.
      end: "wait" for the answer; "half" closes the sending side first; "hang up" reads
        nothing.
    """

    kind: str
    pieces: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    end: str = "wait"


def attacks(seed: int) -> Iterator[Attack]:
    """Yields malformed requests, all kinds in turn."""
    rng = random.Random(seed)
    for kind in itertools.cycle(_KINDS):
        attack = _KINDS[kind](rng)
        attack.kind = kind
        yield attack


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Writes an HTTP request, perhaps with a length that is not its body's."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if not any(h.lower().startswith(("content-length", "transfer")) for h in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def valid(rng: random.Random) -> tuple[str, dict]:
    """Makes a request that would be answered, in few tokens."""
    path = rng.choice(PATHS)
    body: dict = {"max_tokens": rng.randint(1, 4), "stream": rng.random() < 0.3}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": "1+1?"}]
    else:
        body["prompt"] = rng.choice(["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
    extra = {
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "stop": ["x"],
        "seed": 1,
        "logprobs": True if "chat" in path else 2,
        "presence_penalty": 1,
        "stop_token_ids": [3],
    }
    for name in rng.sample(sorted(extra), rng.randint(0, 3)):
        body[name] = extra[name]
    return path, body


_SCALARS: list[object] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308),
    *(0.1, -0.0, "", "x", "\0", "é" * 50, "🎉", "<think>", "a" * 5000, "1", "NaN"),
]
_OBJECTS: list[object] = [[], {}, [[]], [{}], [None], [""], {"": ""}, {"a": [1]}]


def _anything(rng: random.Random, depth: int = 0) -> object:
    if depth > 3 or rng.random() < 0.6:
        return copy.deepcopy(rng.choice(_SCALARS + _OBJECTS))
    if rng.random() < 0.5:
        return [_anything(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    keys = ("role", "content", "type", "text", "index", "name", "schema", "function")
    return {
        rng.choice(keys): _anything(rng, depth + 1) for _ in range(rng.randint(0, 4))
    }


_NAMES = (
    *("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "top_k"),
    *("min_p", "n", "stop", "stream", "stream_options", "seed", "logprobs", "echo"),
    *("top_logprobs", "logit_bias", "tools", "tool_choice", "response_format", "user"),
    *("min_tokens", "bad_words", "allowed_token_ids", "priority", "prompt_logprobs"),
    *("chat_template_kwargs", "thinking", "structured_outputs", "ignore_eos"),
)


def _wrong_types(rng: random.Random) -> Attack:
    path, body = valid(rng)
    for _ in range(rng.randint(1, 3)):
        body[rng.choice(_NAMES)] = _anything(rng)
    if "messages" in body and rng.random() < 0.3:
        body["messages"] = [{"role": "user", "content": _anything(rng)}]
    return Attack("", [post(path, json.dumps(body).encode())])


def _broken_json(rng: random.Random) -> Attack:
    path, body = valid(rng)
    text = json.dumps(body)
    at = rng.randrange(len(text))
    broken = rng.choice(
        [
            text[:at],
            text[:at] + rng.choice('{}[]",:\\\0') + text[at:],
            text[:at] + text[at + 1 :],
            text + text,
            "[" + text + "]",
            text.replace('"', "'"),
        ]
    )
    return Attack("", [post(path, broken.encode())])


def _flipped_bytes(rng: random.Random) -> Attack:
    path, body = valid(rng)
    data = bytearray(json.dumps(body).encode())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Attack("", [post(path, bytes(data))])


def _numbers(rng: random.Random) -> Attack:
    path, body = valid(rng)
    name = rng.choice(["temperature", "seed", "max_tokens", "n", "top_k", "top_p"])
    body[name] = "@"
    number = rng.choice(
        ["NaN", "-Infinity", "1e999", "9" * 5000, "-0", "01", "1.", "0x10", "1e-400"]
    )
    return Attack("", [post(path, json.dumps(body).replace('"@"', number).encode())])


def _nesting(rng: random.Random) -> Attack:
    path, body = valid(rng)
    depth = rng.choice([50, 900, 5000, 100_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = opened * depth + "1" + closed * (depth if rng.random() < 0.7 else 0)
    body[rng.choice(_NAMES)] = "@"
    return Attack("", [post(path, json.dumps(body).replace('"@"', inner).encode())])


def _bad_utf8(rng: random.Random) -> Attack:
    path, body = valid(rng)
    body["user"] = "@"
    bad = rng.choice(
        [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"]
    )
    if rng.random() < 0.3:
        bad = rng.choice([rb"\ud800", rb"\udfff\ud800", rb"\u12"])
    data = json.dumps(body).encode()
    return Attack("", [post(path, data.replace(b"@", bad))])


def _headers(rng: random.Random) -> Attack:
    path, body = valid(rng)
    data = json.dumps(body).encode()
    header = rng.choice(
        [
            *("no colon", ": no name", "X: a\0b", "X: \xff\xfe", "X: " + "a" * 70_000),
            *(
                "Content-Length: -1",
                "Content-Length: x",
                "Content-Length: 9" + "9" * 30,
            ),
            *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked"),
            *("Content-Type: text/plain", "Content-Type: ;;;", "Expect: 100-continue"),
            *(
                "Content-Encoding: gzip",
                "Authorization: Bearer \xe9",
                "X-Request-Id: \t",
            ),
            *(
                "Connection: Upgrade\r\nUpgrade: websocket",
                "Host: y",
                "Content-Length: 5",
            ),
        ]
    )
    return Attack("", [post(path, data, header)], end=rng.choice(["half", "wait"]))


def _request_lines(rng: random.Random) -> Attack:
    noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 200)))
    line = rng.choice(
        [
            *(noise, b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"),
            b"POST /v1/completions\r\n\r\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS greeting
        ]
    )
    return Attack("", [line], end="half")


def _methods(rng: random.Random) -> Attack:
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])
    path = rng.choice(
        [
            *(*PATHS, "/v1/models", "/metrics", "/health", "/v1/models/%00", "/%ff%fe"),
            *(
                "//v1/models",
                "/v1/../v1/models",
                "/v1/models/" + "x" * 3000,
                "*",
                "/?a=%",
            ),
        ]
    )
    data = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    return Attack("", [data.encode()])


def _declared_too_long(rng: random.Random) -> Attack:
    body = b'{"prompt": "' + b"a" * rng.choice([0, 1000, 2 * 2**20])
    if rng.random() < 0.5:  # it waits for leave to send
        return Attack("", [post(PATHS[1], b"", "Expect: 100-continue", length=_HUGE)])
    return Attack("", [post(PATHS[1], body, length=_HUGE)], end="half")


def _unfinished(rng: random.Random) -> Attack:
    path, body = valid(rng)
    data = post(path, json.dumps(body).encode())
    cut = rng.randrange(1, len(data))
    return Attack("", [data[:cut]], end=rng.choice(["half", "hang up"]))


def _slow(rng: random.Random) -> Attack:
    path, body = valid(rng)
    data = post(path, json.dumps(body).encode())
    size = max(len(data) // 4, 1)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return Attack("", pieces, pause=0.005, end=rng.choice(["wait", "half", "hang up"]))


def _chunks(rng: random.Random) -> Attack:
    path, body = valid(rng)
    data = json.dumps(body).encode()
    size = rng.choice([b"%x" % len(data), b"zz", b"-1", b"ffffffffffffffffff", b"0"])
    body_bytes = size + b"\r\n" + data + b"\r\n0\r\n\r\n"
    head = post(path, b"", "Transfer-Encoding: chunked")
    return Attack("", [head, body_bytes], end=rng.choice(["wait", "half"]))


def _leaving(rng: random.Random) -> Attack:
    path, body = valid(rng)
    body["max_tokens"] = 100
    data = post(path, json.dumps(body).encode())
    return Attack("", [data], pause=rng.choice([0, 0.01]), end="hang up")


def _huge(rng: random.Random) -> Attack:
    """A body that really is long, sent to its end, one time in fifty."""
    if rng.random() > 0.02:
        return _declared_too_long(rng)
    head = post(PATHS[1], b'{"prompt": "', length=_HUGE)
    piece = b"a" * 2**20
    return Attack("", [head, *[piece] * 100])


_KINDS: dict[str, Callable[[random.Random], Attack]] = {
    "wrong types": _wrong_types,
    "broken JSON": _broken_json,
    "flipped bytes": _flipped_bytes,
    "numbers": _numbers,
    "nesting": _nesting,
    "bad UTF-8": _bad_utf8,
    "headers": _headers,
    "request lines": _request_lines,
    "methods": _methods,
    "declared too long": _declared_too_long,
    "unfinished": _unfinished,
    "slow": _slow,
    "chunks": _chunks,
    "leaving": _leaving,
    "huge": _huge,
    "more wrong types": _wrong_types,
}
