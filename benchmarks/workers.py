"""Peers in processes of their own, asked over pipes; see `peers/worker.py`."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# OpenMP's threads spin a while before they sleep; by default so long that a disturbed
# peer comes to a halt. This costs an undisturbed one nothing.
_SLEEP_SOONER = {"GOMP_SPINCOUNT": "10000"}


class Worker:
    """A peer in a process of its own."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Starts it and waits until it is ready.

        Raises:
          ChildProcessError: It ended instead; says why.
        """
        self.name = name
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **_SLEEP_SOONER},
            )
        try:
            self.version: str = self._read()["version"]
        except ChildProcessError:
            why = (log.read_text().strip().splitlines() or ["no word"])[-1]
            raise ChildProcessError(f"{name} did not start: {why}") from None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, measure: str, **arguments: Any) -> Any:
        """Has one thing measured."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"measure": measure, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Closes the pipe, at which the process ends."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self.name} ended")
        return json.loads(line)


@contextlib.contextmanager
def started(
    commands: Mapping[str, Sequence[Any]], logs: Path
) -> Iterator[dict[str, Worker]]:
    """Starts what can be started and says what cannot; ends it all afterwards."""
    workers: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            try:
                workers[name] = Worker(
                    name, [str(part) for part in command], logs / f"{name}.log"
                )
            except ChildProcessError as error:
                sys.stderr.write(f"{error}\n")
        yield workers
    finally:
        for worker in workers.values():
            worker.close()
