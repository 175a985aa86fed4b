"""Command lines that complain in three lines, as everything else here does."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from r1jax.errors import ConfigError

_TUNABLES = "GLIBC_TUNABLES"


class Parser(argparse.ArgumentParser):
    """A parser that raises where others print the usage and leave."""

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong with the command line."""
        raise ConfigError(
            message,
            "the command line cannot be understood",
            f"see {self.prog} --help",
        )


def require(extra: str, *packages: str) -> None:
    """Sees whether packages are installed that an extra brings, before an import fails.

    Raises:
      ConfigError: One is not.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} cannot be imported",
            f"r1jax was installed without its extra {extra!r}, which brings what this "
            "needs",
            f'python -m pip install "r1jax[{extra}]"',
        )


def require_to_run(extra: str, *packages: str) -> None:
    """Does the same for the `__init__` of a package that is run.

    `python -m` imports that first, and says so; it gets three lines and an exit code
    in place of a traceback.

    Raises:
      ConfigError: A package is missing, and it is a program that imports this.
    """
    try:
        require(extra, *packages)
    except ConfigError as error:
        if sys.argv[:1] != ["-m"]:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def restart_in_large_pages() -> None:
    """Starts a program of this package anew, its memory in large pages, by glibc.

    A step's buffers come from malloc and go back to the kernel after it, which clears
    them again for the next one, 4 KiB at a time by default. glibc reads what it should
    do at the start of a process alone (its manual, "Memory Allocation Tunables").

    For the `__init__` of a package that is run, while `python -m` looks for it. Does
    nothing anywhere else, nor where GLIBC_TUNABLES is set, be it to nothing.
    """
    program = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    ours = any(a == "-m" and b.partition(".")[0] == "r1jax" for a, b in program)
    if sys.argv[:1] != ["-m"] or not ours or _TUNABLES in os.environ:
        return
    if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
        os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def whole(low: int, high: int = 2**62) -> Callable[[str], int]:
    """Makes a type for integers from `low` to `high`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if low <= number <= high:
            return number
        bound = f"less than {low}" if number < low else f"more than {high}"
        raise argparse.ArgumentTypeError(f"{number} is {bound}")

    return whole_number
