"""Trains: `python -m r1jax.train configs/sft.py --set model=... --output DIR`."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from r1jax.command import Parser
from r1jax.errors import ConfigError, R1jaxError
from r1jax.train import rejecting, rl, settings, sft

_BAD_INPUT = 2  # the exit code for what the user can put right
_INTERRUPTED = 128 + signal.SIGINT
KINDS = {"sft": sft.run, "grpo": rl.run, "reject": rejecting.run}


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains by the settings' kind; the exit code is 130 after Ctrl-C."""
    try:
        args = parser().parse_args(arguments)
        config = settings.load(args.config, args.set)
        if config.kind not in KINDS:
            raise ConfigError(
                f"kind is {config.kind!r}",
                f"the kinds of training are {', '.join(KINDS)}",
                "use the settings of one of them",
            )
        done = KINDS[config.kind](config, args.output, args.resume)
        return 0 if done else _INTERRUPTED
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED


def parser() -> Parser:
    """Builds the parser, with its help."""
    parser = Parser(prog="python -m r1jax.train", description=__doc__)
    parser.add_argument("config", help="a file of settings, or its name in configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="changes a setting, such as optimizer.learning_rate=5e-5",
    )
    parser.add_argument("--output", type=Path, required=True, help="a directory")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the newest checkpoint"
    )
    return parser


if __name__ == "__main__":
    code = main()
    if code == _INTERRUPTED:
        sys.stdout.flush()
        os._exit(code)  # Python would wait for threads that wait for a teacher
    sys.exit(code)
