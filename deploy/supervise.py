"""Keeps the processes of one program running on machines without JobSet or Slurm.

    python deploy/supervise.py --num-processes 2 -- \
        python -m r1jax.serve MODEL --coordinator 127.0.0.1:8476

starts the command once for each process, with `--num-processes` and `--process-id`
added. When one dies the others end by themselves, and all are started again, after a
pause that doubles. With several hosts each runs this, with the numbers that are its own
(`--process-id 1`) and the first host's address as the coordinator.

It ends when all have ended well, when one refuses its input (code 2), when they have
died too often, or when it is told to stop, which it passes on. Needs Python alone.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

BAD_INPUT = 2  # a process that refuses its input would do so again
GRACE_SECONDS = 35  # processes notice a death, and end, within 30
LONG_SECONDS = 600  # who ran so long has not failed at once
LONGEST_PAUSE_SECONDS = 60
_POLL_SECONDS = 0.1


class Supervisor:
    """The processes of this host, started together again and again."""

    def __init__(self, commands: dict[int, list[str]], most_restarts: int) -> None:
        """Takes the command of each process, by its number."""
        self._commands = commands
        self._most_restarts = most_restarts
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._told = threading.Event()

    def run(self) -> int:
        """Runs until there is nothing more to start; gives the exit code."""
        failures = 0
        while True:
            since = time.monotonic()
            code = self._run_once()
            if code in (0, BAD_INPUT) or self._told.is_set():
                return code
            failures = 0 if time.monotonic() - since > LONG_SECONDS else failures
            if failures >= self._most_restarts:
                _say(f"gives up after {failures} restarts")
                return code
            pause = min(2**failures, LONGEST_PAUSE_SECONDS)
            failures += 1
            _say(f"starts again in {pause} s ({failures} of {self._most_restarts})")
            if self._told.wait(pause):
                return code

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal: passes it on, and starts nothing again."""
        self._told.set()
        for process in self._running.values():
            process.terminate()

    def _run_once(self) -> int:
        """Starts all, waits until all have ended, and gives the worst exit code."""
        for number, command in self._commands.items():
            # Of a session of its own: Ctrl-C must not reach it twice.
            process = subprocess.Popen(command, start_new_session=True)
            self._running[number] = process
            _say(f"started process {number}, pid {process.pid}")
        if self._told.is_set():  # while they were started
            self.stop(signal.SIGTERM, None)
        codes: list[int] = []
        deadline = None
        while self._running:
            time.sleep(_POLL_SECONDS)
            for number, process in list(self._running.items()):
                code = process.poll()
                if code is None:
                    continue
                del self._running[number]
                codes.append(128 - code if code < 0 else code)
                if codes[-1]:
                    _say(f"process {number} ended with code {codes[-1]}")
                deadline = deadline or time.monotonic() + GRACE_SECONDS
            if deadline and time.monotonic() > deadline:
                for process in self._running.values():
                    process.kill()
        return BAD_INPUT if BAD_INPUT in codes else max(codes)


def _say(line: str) -> None:
    sys.stderr.write(f"supervise: {line}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and supervises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--num-processes", type=int, required=True, help="of all hosts")
    add("--process-id", type=int, nargs="+", help="those of this host; all if left out")
    add("--max-restarts", type=int, default=10, help="in a row (%(default)s)")
    add("command", nargs="+", help="what to run, after --")
    args = parser.parse_args(arguments)
    count = args.num_processes
    numbers = range(count) if args.process_id is None else args.process_id
    if count < 1 or not all(0 <= number < count for number in numbers):
        parser.error(f"processes are numbered from 0 to {count - 1}")
    commands = {
        number: [
            *args.command,
            *("--num-processes", str(count), "--process-id", str(number)),
        ]
        for number in numbers
    }
    supervisor = Supervisor(commands, args.max_restarts)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
