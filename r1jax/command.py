"""Command lines that complain in three lines, as everything else here does."""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from typing import NoReturn

from r1jax.errors import ConfigError


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


def whole(low: int, high: int = 2**62) -> Callable[[str], int]:
    """Makes a type for integers from `low` to `high`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if low <= number <= high:
            return number
        bound = f"less than {low}" if number < low else f"more than {high}"
        raise argparse.ArgumentTypeError(f"{number} is {bound}")

    return whole_number
