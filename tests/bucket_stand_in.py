"""A stand-in for Google Cloud Storage, on loopback: the part of its JSON API in use.

Files are given by what holds them, a folder or a dict of names and contents, and are
listed in pages. It can be told to refuse.
"""

import json
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "models"
_PAGE = 7  # names in one answer


def files_in(folder: Path, start: str) -> dict[str, bytes]:
    """Reads a folder, as `gcloud storage cp -r` would put it under a name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        f"{start}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in paths
    }


@dataclass
class Bucket:
    """A bucket.

    Attributes:
      files: Contents by name.
      refuses: An HTTP status that all get.
      token: What all must bring; empty for a public bucket.
      asked: The names whose contents were asked for, with the range.
    """

    files: dict[str, bytes]
    refuses: int | None = None
    token: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def __enter__(self) -> "Bucket":
        """Listens on a free port."""
        handler = type("Handler", (_Handler,), {"bucket": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Listens no more."""
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """By which its clients find it, and ask no other machine for credentials."""
        return {
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GCE_METADATA_ROOT": self.url.removeprefix("http://"),
            "STORAGE_EMULATOR_HOST": self.url,  # of gcsfs, and what follows
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks by gRPC
        }


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        words = path.removeprefix("/download").strip("/").split("/")
        asked = dict(urllib.parse.parse_qsl(query))
        if words[:3] != [
            "storage",
            "v1",
            "b",
        ]:  # the metadata server, which is not here
            return self._send(404, b"")
        sent = self.headers.get("Authorization", "")
        if self.bucket.refuses or (self.bucket.token and sent != self.bucket.token):
            return self._refuse(self.bucket.refuses or 401)
        if words[3:5] != [BUCKET, "o"]:
            return self._refuse(404)
        if len(words) == 5:
            return self._list(asked)
        return self._object(urllib.parse.unquote(words[5]), asked)

    def do_POST(self) -> None:
        """Begins an upload and says where its contents go, or takes them whole."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if path.startswith("/upload/"):
            place = (
                f"{self.bucket.url}/contents?name={urllib.parse.quote(asked['name'])}"
            )
            return self._send(200, b"{}", {"Location": place})
        self.bucket.files[asked["name"]] = sent
        return self._json(self._about(asked["name"]))

    def _list(self, asked: Mapping[str, str]) -> None:
        start = asked.get("prefix", "")
        names = sorted(name for name in self.bucket.files if name.startswith(start))
        first = int(asked.get("pageToken", 0))
        more = names[first + _PAGE :]
        listed = [self._about(name) for name in names[first : first + _PAGE]]
        answer = {"kind": "storage#objects", "items": listed}
        answer |= {"nextPageToken": str(first + _PAGE)} if more else {}
        self._json(answer)

    def _object(self, name: str, asked: Mapping[str, str]) -> None:
        content = self.bucket.files.get(name)
        if content is None:
            return self._refuse(404)
        if asked.get("alt") != "media":
            return self._json(self._about(name))
        wanted = self.headers.get("Range")
        self.bucket.asked.append((name, wanted))
        if wanted is None:
            return self._send(200, content)
        low, high = wanted.removeprefix("bytes=").split("-")
        first = int(low) if low else max(len(content) - int(high), 0)
        last = int(high) if low and high else len(content) - 1
        part = content[first : last + 1]
        about = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return self._send(206, part, {"Content-Range": about})

    def _about(self, name: str) -> dict[str, str]:
        size = str(len(self.bucket.files[name]))
        about = {"bucket": BUCKET, "name": name, "size": size, "generation": "1"}
        return {"kind": "storage#object", "metageneration": "1", **about}

    def _json(self, answer: Mapping[str, object]) -> None:
        self._send(
            200, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        )

    def _refuse(self, status: int) -> None:
        error = {"code": status, "message": f"the stand-in says {status}"}
        self._send(status, json.dumps({"error": error}).encode())

    def _send(
        self, status: int, content: bytes, more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-goog-generation", "1")
        for key, value in (more or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *message: object) -> None:
        """Says nothing."""
