"""Command lines that complain in three lines, as everything else here does."""

import argparse
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


def whole(low: int, high: int = 2**62) -> Callable[[str], int]:
    """Makes a type for integers from `low` to `high`."""

    def whole_number(text: str) -> int:
        number = int(text)
        if low <= number <= high:
            return number
        bound = f"less than {low}" if number < low else f"more than {high}"
        raise argparse.ArgumentTypeError(f"{number} is {bound}")

    return whole_number
