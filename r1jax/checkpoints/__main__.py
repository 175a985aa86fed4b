"""Converts models of the Hugging Face hub once, and keeps them for `r1jax.load`.

    python -m r1jax.checkpoints add deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --dtype int8
    python -m r1jax.checkpoints list
    python -m r1jax.checkpoints delete deepseek-ai/DeepSeek-R1-Distill-Qwen-7B

They lie in R1JAX_CHECKPOINTS, by default ~/.cache/r1jax/checkpoints. What `add` has
begun goes on with the same command.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import jax

from r1jax.checkpoints import kept
from r1jax.checkpoints.fetch import add
from r1jax.checkpoints.kept import Kept
from r1jax.command import Parser
from r1jax.errors import ConfigError, R1jaxError
from r1jax.hub import parse
from r1jax.quant import PARTS
from r1jax.weights.dtypes import DTYPES
from r1jax.weights.files import some

_BAD_INPUT = 2  # the exit code for what the user can put right
_INTERRUPTED = 130
_SHORT = 12  # digits of a commit that are shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what was asked and gives the exit code."""
    try:
        args = parser().parse_args(arguments)
        args.act(args)
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on where it stood\n")
        return _INTERRUPTED
    return 0


def _add(args: argparse.Namespace) -> None:
    repository = parse(args.name)
    if repository is None:
        raise ConfigError(
            f"{args.name} is no repository of the hub",
            "only what has a name and a commit there can be found again by it",
            "give owner/name or owner/name@revision; python -m r1jax.convert converts "
            "directories",
        )
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # no accelerator is needed, or taken
    forms = {f"{part}_dtype": getattr(args, f"{part}_dtype") for part in PARTS}
    path, report = add(repository, dtype=args.dtype, **forms)
    print(f"is there already: {path}" if report is None else report)


def _list(args: argparse.Namespace) -> None:
    rows = [(one, one.nbytes) for one in kept.all_kept()]
    if not rows:
        print(f"nothing is kept in {kept.home()}")
        return
    wide = max(len(_key(one)) for one, _ in rows)
    for one, nbytes in rows:
        state = "" if one.whole else "  unfinished"
        print(f"{_key(one):<{wide}}  {nbytes / 1e9:>9.2f} GB  {one.form}{state}")
    print(f"{sum(size for _, size in rows) / 1e9:.2f} GB in {kept.home()}")


def _delete(args: argparse.Namespace) -> None:
    chosen = [one for one in kept.all_kept() if _matches(one, args.name, args.form)]
    if not chosen:
        there = [f"{_key(one)} --form {one.form}" for one in kept.all_kept()]
        form = f" --form {args.form}" if args.form else ""
        raise ConfigError(
            f"no kept checkpoint is {args.name}{form}",
            f"kept are {some(there)}" if there else f"{kept.home()} is empty",
            "give a name or name@commit, and a form, as `list` prints them",
        )
    for one in chosen:
        nbytes = one.nbytes
        kept.delete([one])
        print(f"deleted {_key(one)} {one.form}: {nbytes / 1e9:.2f} GB")


def _key(one: Kept) -> str:
    return f"{one.repository.name}@{one.repository.revision[:_SHORT]}"


def _matches(one: Kept, asked: str, form: str | None) -> bool:
    name, _, commit = asked.partition("@")
    same = one.repository.name == name and one.repository.revision.startswith(commit)
    return same and form in (None, one.form)


def parser() -> Parser:
    """Builds the parser, with its help."""
    parser = Parser(
        "python -m r1jax.checkpoints",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="add | list | delete")
    verb = verbs.add_parser("add", help="fetch a model, convert it and keep it")
    verb.set_defaults(act=_add)
    verb.add_argument("name", metavar="NAME[@REVISION]", help="of a repository")
    verb.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of the weights"
    )
    for part in PARTS:
        verb.add_argument(
            f"--{part}-dtype",
            choices=DTYPES,
            help=f"of {part} weights, where it differs from --dtype",
        )
    verb = verbs.add_parser("list", help="show what is kept, and its size")
    verb.set_defaults(act=_list)
    verb = verbs.add_parser("delete", help="delete what is kept of a model")
    verb.set_defaults(act=_delete)
    verb.add_argument("name", metavar="NAME[@COMMIT]", help="as `list` prints it")
    verb.add_argument("--form", help="only what is kept in this form")
    return parser


if __name__ == "__main__":
    sys.exit(main())
