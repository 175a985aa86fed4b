"""Runs a command, and ends it when whoever started this has gone.

    python deploy/guard.py -- python -m r1jax.serve MODEL

The starter holds the other end of standard input and writes nothing to it. However the
starter ends, `kill -9` included, that end is closed: the command is told to stop then,
and killed if it does not. SIGTERM and SIGINT are passed on. Gives the command's exit
code, 128 and its number for a signal. Needs Python alone.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

BAD_INPUT = 2
GRACE_SECONDS = 30  # from being told to being killed
_SIGNAL = 128
_INPUT = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command to its end."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        sys.stderr.write("usage: python guard.py -- COMMAND ...\n")
        return BAD_INPUT
    running: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        for process in running:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"guard: {error}\n")
        return BAD_INPUT
    running.append(process)
    if told:  # while it was started
        process.terminate()
    threading.Thread(target=_watch, args=(process,), daemon=True).start()
    code = process.wait()
    return _SIGNAL - code if code < 0 else code


def _watch(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of standard input, and ends the command."""
    # Not sys.stdin, whose lock Python would want when it ends.
    while os.read(_INPUT, 1):
        pass
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
