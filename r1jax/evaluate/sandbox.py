"""Runs programs that a model wrote: apart, without a network, and within limits.

A program gets a process of its own, without root's powers, which the kernel itself
(seccomp) keeps from sockets, from new processes, from writing, making or removing any
file, from signals and from other processes' memory; it has limits on time and memory,
an empty environment, and an empty folder to stand in. It can read the files that its
user can read, and its output is thrown away. `sandbox_guard` is what that process runs
first. Linux on x86-64 only: elsewhere nothing is run.
"""

import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from r1jax.errors import ConfigError

_GUARD = Path(__file__).with_name("sandbox_guard.py")
_NOTE = 300  # characters of an error that are kept
_SELF_TEST = """
import collections, functools, hashlib, heapq, itertools, math, random, re, typing
import os, socket, threading
def refused(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return
    raise AssertionError(f"{function} was allowed")
refused(socket.socket)
refused(os.fork)
refused(open, "file", "w")
refused(os.kill, os.getppid(), 0)
"""


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end; else `note` says why not."""

    passed: bool
    note: str = ""


def check() -> None:
    """Tries the sandbox on a program that tests its walls.

    Raises:
      ConfigError: It does not hold here, or nothing can run in it.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ConfigError(
            f"no code is run on {sys.platform} {platform.machine()}",
            "the sandbox is Linux's seccomp on x86-64",
            "evaluate there, or in a container",
        )
    outcome = run_program(_SELF_TEST, seconds=60.0)
    if not outcome.passed:
        raise ConfigError(
            "the sandbox does not hold here, so no code is run",
            outcome.note,
            "use a kernel with seccomp",
        )


def run_program(program: str, seconds: float = 10.0, megabytes: int = 1024) -> Outcome:
    """Runs a Python program in the sandbox.

    Args:
      program: The source.
      seconds: How long it may take.
      megabytes: How much memory it may have.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", _GUARD, str(seconds), str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(
                    f"{token}\n{program}".encode(errors="replace"), seconds
                )
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return Outcome(False, f"it took more than {seconds:g} s")
    if process.returncode == 0 and out == token.encode():
        return Outcome(True)
    lines = err.decode(errors="replace").strip().splitlines()
    if process.returncode < 0:
        lines.append(f"killed by {signal.Signals(-process.returncode).name}")
    return Outcome(False, (lines or ["it ended before its tests did"])[-1][:_NOTE])


def run_programs(programs: Sequence[str], workers: int = 2) -> list[Outcome]:
    """Runs several programs, some at a time, in their order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run_program, programs))
