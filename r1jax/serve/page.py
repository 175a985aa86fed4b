"""The chat page: its files, read once, and the headers that keep it to this server.

`/` gives the page. Everything that it loads lies under `/ui/DIGEST/`, where the digest
is that of all files together: such an address never changes its content, so browsers
keep it for good, and the parts of two releases are never mixed. The page holds no
secrets and needs no key; what it asks of `/v1` does.
"""

import gzip
import hashlib
import importlib.resources
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources.abc import Traversable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_PLAIN = "text/plain; charset=utf-8"  # licences and sums

# Scripts, styles, fonts and requests: this server's only, and nothing inline. Whatever
# a model writes can run nothing and reach nobody. Text becomes elements in DOMPurify
# alone: the browser refuses every other way (trusted types).
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "vary": "accept-encoding",
}
_ALWAYS_ASK: Final = "no-cache"  # the browser asks each time whether it has changed
_KEEP: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class File:
    """One file of the page. `digest` names its bytes."""

    body: bytes
    content_type: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Computes the digest."""
        digest = hashlib.sha256(self.body).hexdigest()[:16]
        object.__setattr__(self, "digest", digest)

    @cached_property
    def packed(self) -> bytes | None:
        """The bytes in gzip, None where that saves nothing."""
        packed = gzip.compress(self.body, mtime=0)
        return packed if len(packed) < 0.9 * len(self.body) else None


class Page:
    """The files of the page in memory, and the two routes that give them out."""

    def __init__(self) -> None:
        """Reads the files that were installed with the package."""
        self._files = _read(importlib.resources.files("r1jax.serve") / "ui")
        names = "".join(f"{p}:{f.digest}\n" for p, f in sorted(self._files.items()))
        self.digest = hashlib.sha256(names.encode()).hexdigest()[:16]
        html = self._files.pop("index.html")
        body = html.body.replace(b"DIGEST", self.digest.encode())
        self._index = File(body, html.content_type)

    def routes(self) -> list[Route]:
        """Lists the paths of the page."""
        return [
            Route("/", self.index),
            Route("/ui/{digest}/{path:path}", self.file),
        ]

    async def index(self, request: Request) -> Response:
        """Gives the page itself."""
        return _answer(request, self._index, _ALWAYS_ASK)

    async def file(self, request: Request) -> Response:
        """Gives a file of the page; one asked for by an older page is not kept.

        Raises:
          HTTPException: 404, the page has no such file. Only names that were read at
            the start are known, so no path leads anywhere else.
        """
        file = self._files.get(request.path_params["path"])
        if file is None:
            raise HTTPException(404)
        current = request.path_params["digest"] == self.digest
        return _answer(request, file, _KEEP if current else _ALWAYS_ASK)


def _read(folder: Traversable, prefix: str = "") -> dict[str, File]:
    """Reads a folder and those in it, by relative path."""
    files: dict[str, File] = {}
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            files |= _read(entry, f"{name}/")
        else:
            suffix = entry.name[entry.name.rfind(".") :]
            files[name] = File(entry.read_bytes(), CONTENT_TYPES.get(suffix, _PLAIN))
    return files


def _answer(request: Request, file: File, caching: str) -> Response:
    """Gives a file: packed where the browser takes that, nothing where it has it."""
    packed = file.packed if _takes_gzip(request) else None
    tag = f'"{file.digest}{"-gzip" if packed else ""}"'
    headers = HEADERS | {"etag": tag, "cache-control": caching}
    known = request.headers.get("if-none-match", "")
    if tag in (known_tag.strip().removeprefix("W/") for known_tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    if packed is not None:
        headers["content-encoding"] = "gzip"
    headers["content-type"] = file.content_type
    return Response(packed or file.body, headers=headers)


def _takes_gzip(request: Request) -> bool:
    """Tells whether `Accept-Encoding` names gzip, and not to forbid it."""
    for coding in request.headers.get("accept-encoding", "").split(","):
        name, _, weight = coding.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
