"""A stand-in for the Hugging Face hub, on loopback: the paths that downloads ask for.

It serves what `repositories` holds, and misbehaves as it is told to.
"""

import hashlib
import json
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from golden_files import golden

NEWEST = "main"
NAME, MODEL = "owner/tiny", "deepseek_yarn"
NEEDED = {
    path.name: path.read_bytes()
    for path in golden(MODEL).directory.iterdir()
    if path.suffix in (".json", ".safetensors")
} | {"tokenizer.json": b'{"any": "tokenizer"}'}
OTHERS = dict.fromkeys(
    [
        "README.md",
        "consolidated.safetensors",
        "figures/benchmark.jpg",
        "original/consolidated.00.pth",
        "original/model.safetensors",
        "original/params.json",
        "pytorch_model-00001-of-00002.bin",
        "vocab.json",
    ],
    b"not needed",
)


@dataclass
class Repository:
    """Files by commit, and what a stranger is told.

    Attributes:
      commits: The files of each commit, by path.
      refs: The commits of branches and tags.
      refuses: The HTTP status and the hub's own code for it; None lets all in.
      token: The token that is let in all the same.
    """

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    refuses: tuple[int, str] | None = None
    token: str = ""


@dataclass
class StandIn:
    """A hub.

    Attributes:
      repositories: What it has.
      cuts: How many bytes of a file are sent before the connection breaks, once each.
      failing: Files that get HTTP 503.
      asked: Method, path and range of all requests.
      pauses: The seconds that were waited between tries.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def put(self, name: str, files: dict[str, bytes], ref: str = NEWEST) -> str:
        """Makes a commit and returns it."""
        repository = self.repositories.setdefault(name, Repository({}, {}))
        count = len(repository.commits)
        commit = hashlib.sha1(f"{name} {count}".encode()).hexdigest()
        repository.commits[commit] = files
        repository.refs[ref] = commit
        return commit

    def fetched(self) -> list[str]:
        """Names the files whose bytes were asked for."""
        paths = (path for method, path, _ in self.asked if method == "GET")
        return sorted(p.split("/", 5)[5] for p in paths if "/resolve/" in p)

    def __enter__(self) -> "StandIn":
        """Listens on a free port."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends, unless it has."""
        self.close()

    def close(self) -> None:
        """Listens no more."""
        if self._thread.is_alive():
            self.server.shutdown()
            self._thread.join()
            self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            name, verb, revision = "/".join(words[2:4]), "info", NEWEST
            if len(words) > 5:
                verb, revision = words[4], "/".join(words[5:])
        elif len(words) < 4:  # a page of the site, for people
            return self._refuse(404, "EntryNotFound")
        else:
            name, verb, revision = "/".join(words[:2]), "resolve", words[3]
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._refuse(401, "RepoNotFound")
        sent = self.headers.get("Authorization", "")
        if repository.refuses and sent != f"Bearer {repository.token}":
            status, code = repository.refuses
            if verb == "resolve" or code != "GatedRepo":  # anyone may list the gated
                return self._refuse(status, code)
        commit = repository.refs.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if verb == "resolve":
            return self._file(commit, files, "/".join(words[4:]))
        listed = [
            {"type": "file", "path": n, "rfilename": n, "size": len(b), "oid": _sha(b)}
            for n, b in files.items()
        ]
        info = {"id": name, "modelId": name, "sha": commit, "siblings": listed}
        return self._send(200, json.dumps(listed if verb == "tree" else info).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, commit: str, files: dict[str, bytes], name: str) -> None:
        if name in self.hub.failing:
            return self._refuse(503, "")
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        data, status = files[name], 200
        about = {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": commit}
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            about["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        cuts = self.hub.cuts.get(name)
        end = cuts.pop(0) if cuts and self.command == "GET" else len(data)
        return self._send(status, data, about, end)

    def _refuse(self, status: int, code: str) -> None:
        about = {"X-Error-Code": code} if code[:1].isupper() else {}
        about["X-Error-Message"] = code or "it fails"
        self._send(status, b"{}", about)

    def _send(
        self,
        status: int,
        data: bytes,
        about: dict[str, str] | None = None,
        end: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (about or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:end])
        if end is not None and end < len(data):
            self.close_connection = True

    def log_message(self, *message: object) -> None:
        """Says nothing."""


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
