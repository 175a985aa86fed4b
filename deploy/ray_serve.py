"""Replicas of r1jax behind Ray Serve, more of them while there is more to do.

    serve run --app-dir deploy ray_serve:application source=MODEL max_replicas=4

Each replica starts a server, `python -m r1jax.serve`, on the devices that Ray gives it,
and passes requests on to it, and answers back as they come. A replica ends with its
server, whichever ends first, and Ray Serve starts another. A model that needs several
hosts is not for this: see deploy/kubernetes.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import BaseModel, Field
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from r1jax.errors import ConfigError
from r1jax.serve import outages
from r1jax.serve.flags import parser
from r1jax.serve.gate import error_response

_GUARD = Path(__file__).with_name("guard.py")
_HEALTH_SECONDS = 10
_GLANCE_SECONDS = 0.1
_LAST_WORDS_SECONDS = 2  # for answers that say why the server ended
_LISTENING = "listening"
# Of one connection, not of the answer.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
# What a replica decides for its server, or what is not for one.
_OURS = ("host", "port", "batch", "output", "ssl_certfile", "coordinator")


class Options(BaseModel, extra="forbid"):
    """What `serve run` takes as NAME=VALUE, and a Serve configuration as `args`.

    Attributes:
      source: The model, as of `python -m r1jax.serve`.
      flags: More of its flags, in one string.
      min_replicas: How many replicas there are at least.
      max_replicas: How many at most.
      target_ongoing_requests: Requests a replica should have; more of them bring more
        replicas. About `--max-num-seqs`.
      max_ongoing_requests: Requests a replica may have; more of them wait.
      num_cpus: CPUs of a replica.
      num_gpus: GPUs of a replica.
      tpus: TPU chips of a replica.
      drain_seconds: How long a replica that is not needed may finish its requests.
    """

    source: str
    flags: str = ""
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8, gt=0)
    max_ongoing_requests: int = Field(32, ge=1)
    num_cpus: float = Field(1, ge=0)
    num_gpus: float = Field(0, ge=0)
    tpus: int = Field(0, ge=0)
    drain_seconds: float = Field(60, ge=0)


def application(options: Options) -> serve.Application:
    """Builds the application for Ray Serve.

    Raises:
      ConfigError: The flags are not of a server, or the numbers do not fit.
    """
    if options.max_replicas < options.min_replicas:
        raise ConfigError(
            f"max_replicas is {options.max_replicas}",
            f"min_replicas is {options.min_replicas}",
            "let the former be no less",
        )
    flags = [options.source, *shlex.split(options.flags)]
    args = parser().parse_args(flags)
    for name in _OURS:
        if getattr(args, name) != parser().get_default(name):
            raise ConfigError(
                f"--{name.replace('_', '-')} in the flags of a replica's server",
                "Ray Serve listens for it, and a replica is one process",
                "leave it out",
            )
    resources = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    chips = {"resources": {"TPU": options.tpus}} if options.tpus else {}
    deployment = serve.deployment(
        Replica,
        name="r1jax",
        ray_actor_options={**resources, **chips},
        max_ongoing_requests=options.max_ongoing_requests,
        graceful_shutdown_timeout_s=options.drain_seconds,
        health_check_timeout_s=2 * _HEALTH_SECONDS,
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target_ongoing_requests,
        },
    )
    return deployment.bind(flags)


class Replica:
    """One server, and the way to it."""

    def __init__(self, flags: list[str]) -> None:
        """Starts the server, and waits until it serves at full speed.

        Raises:
          ConfigError: It has ended instead; with its last lines.
        """
        self._server = Server(flags)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, request: Request) -> Response:
        """Passes a request on, and its answer back."""
        if self._session is None:  # must be made while the loop runs
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        path = request.url.path
        query = f"?{request.url.query}" if request.url.query else ""
        try:
            answer = await self._session.request(
                request.method,
                f"{self._server.url}{path}{query}",
                headers=_passed_on(request.headers, "host", "content-length"),
                data=await request.body(),
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            return error_response(outages.failed(str(error)), path)
        return StreamingResponse(
            _pieces(answer), answer.status, _passed_on(answer.headers)
        )

    async def check_health(self) -> None:
        """Tells Ray Serve by raising that another replica should take over."""
        await asyncio.to_thread(self._server.check)

    def __del__(self) -> None:
        """Stops the server, when Ray Serve has drained the replica."""
        server = getattr(self, "_server", None)
        if server is not None:
            server.stop()


class Server:
    """A server as a process, which ends with this one, and this one with it.

    Attributes:
      url: Its address.
    """

    def __init__(self, flags: list[str]) -> None:
        """Starts it and waits; see `Replica`."""
        command = ["-m", "r1jax.serve", *flags, "--port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, _GUARD, "--", sys.executable, *command],
            stdin=subprocess.PIPE,  # the guard sees it close when we end
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._last: deque[str] = deque(maxlen=20)
        self._listens = threading.Event()
        self._stopping = False
        self.url = ""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        while not self._serves():
            if self._process.poll() is not None:
                reader.join()
                raise ConfigError(
                    f"the server ended with code {self._process.returncode}",
                    "\n".join(self._last),
                    "correct the source or the flags",
                )
            time.sleep(_GLANCE_SECONDS)
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def check(self) -> None:
        """Raises where the server does not answer, or has failed.

        Raises:
          OSError: It does not answer.
          RuntimeError: It has failed.
        """
        if self._status() == "failed":
            raise RuntimeError("the server's engine has failed")

    def stop(self) -> None:
        """Tells the server to stop, and waits for its end; does nothing again."""
        if self._stopping:
            return
        self._stopping = True
        self._process.terminate()
        self._process.wait()

    def _read(self) -> None:
        """Shows the server's lines as ours, and finds where it listens."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sys.stderr.write(line)
            self._last.append(line.rstrip())
            if line.startswith(_LISTENING):
                self.url = line.removeprefix(_LISTENING).strip().removesuffix("/v1")
                self._listens.set()

    def _serves(self) -> bool:
        try:
            return self._listens.is_set() and self._status() == "ok"
        except OSError:  # it has just ended
            return False

    def _status(self) -> str:
        try:
            with urllib.request.urlopen(
                f"{self.url}/health", timeout=_HEALTH_SECONDS
            ) as answer:
                status = json.load(answer)["status"]
        except urllib.error.HTTPError as error:
            with error:
                status = json.load(error)["status"]
        return str(status)

    def _end_with_it(self) -> None:
        """Ends this process when the server has ended, so that another is started."""
        code = self._process.wait()
        if not self._stopping:
            sys.stderr.write(f"r1jax: the server of this replica ended, code {code}\n")
            time.sleep(_LAST_WORDS_SECONDS)
            with contextlib.suppress(ProcessLookupError):  # usual: nothing is left
                os.killpg(self._process.pid, signal.SIGKILL)
            os._exit(1)


def _passed_on(headers: Mapping[str, str], *but: str) -> dict[str, str]:
    left_out = {*_HOP_BY_HOP, *but}
    return {k: v for k, v in headers.items() if k.lower() not in left_out}


async def _pieces(answer: Any) -> AsyncIterator[bytes]:
    """Gives an answer as it comes; whoever hangs up here hangs up there."""
    async with answer:
        async for piece in answer.content.iter_any():
            yield piece
