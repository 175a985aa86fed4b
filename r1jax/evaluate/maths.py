"""Full judgement of mathematical answers, in processes that may hang.

The rules are `r1jax.text.answers`'; single expressions that they do not know go to
math-verify (the `evaluate` extra), that is to sympy, which can take forever and guards
itself by signals that only a main thread gets. So it runs in worker processes, each of
which is killed when an answer takes too long.
"""

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from r1jax.command import require
from r1jax.errors import ConfigError

_WORKER = [sys.executable, "-m", "r1jax.evaluate.maths_worker"]
_WORTH_A_WORKER = 32  # pairs: for fewer no other one is started
_START_SECONDS = 120.0  # sympy takes six seconds to import, more on a busy machine


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right; `note` says why it could not be judged, if so."""

    correct: bool
    note: str = ""


class Judges:
    """Worker processes that compare answers; close them, or use them in a `with`."""

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 10.0,
        command: Sequence[str] = tuple(_WORKER),
    ) -> None:
        """Starts nothing yet.

        Args:
          workers: Processes at once.
          timeout: Seconds for one comparison; then it counts as unequal, with a note.
          command: How a worker is started.

        Raises:
          ConfigError: math-verify is not installed.
        """
        require("evaluate", "math_verify")
        self._count = workers
        self._workers = [_Worker(timeout, command) for _ in range(workers)]

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the workers."""
        self.close()

    def close(self) -> None:
        """Stops the workers."""
        for worker in self._workers:
            worker.stop()

    def judge(self, pairs: Sequence[tuple[str | None, str]]) -> list[Verdict]:
        """Judges pairs of an answer (None for none) and the truth, in their order.

        Raises:
          ConfigError: A worker does not start.
        """
        verdicts = [Verdict(False, "no answer")] * len(pairs)
        waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        broken: list[ConfigError] = []
        for at, (answer, _) in enumerate(pairs):
            if answer is not None:
                waiting.put(at)

        def work(worker: _Worker) -> None:
            while (at := waiting.get()) is not None and not broken:
                answer, truth = pairs[at]
                try:
                    verdicts[at] = worker.judge(str(answer), truth)
                except ConfigError as error:
                    broken.append(error)

        threads = []
        for worker in self._workers[: 1 + len(pairs) // _WORTH_A_WORKER]:
            waiting.put(None)
            threads.append(threading.Thread(target=work, args=(worker,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if broken:
            raise broken[0]
        return verdicts


class _Worker:
    """One process, started when first needed and again after each kill."""

    def __init__(self, timeout: float, command: Sequence[str]) -> None:
        self._timeout, self._command = timeout, command
        self._process: subprocess.Popen[bytes] | None = None

    def judge(self, answer: str, truth: str) -> Verdict:
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([answer, truth]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(self._timeout)
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return Verdict(**json.loads(line))
        died = self._process.poll() is not None or line == b"\0"
        self.stop()
        if died:
            return Verdict(False, "the comparison ended its process")
        return Verdict(False, f"the comparison took more than {self._timeout:g} s")

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # what was written last is never read
                continue
        self._process = None

    def _start(self) -> None:
        pipe = subprocess.PIPE
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, env=environment
        )
        if not self._line(_START_SECONDS).endswith(b"\n"):
            self.stop()
            raise ConfigError(
                "a process that judges answers did not start",
                f"it said nothing for {_START_SECONDS:g} s, or ended; see above",
                "try: python -m r1jax.evaluate.maths_worker",
            )

    def _line(self, seconds: float) -> bytes:
        r"""Reads a line; ends in "\0" where the process has closed its output."""
        assert self._process is not None
        assert self._process.stdout is not None
        handle, text = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + seconds
        while not text.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                return text
            piece = os.read(handle, 65536)
            if not piece:
                return b"\0"
            text += piece
        return text
