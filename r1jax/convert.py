"""Converts weights to an r1jax checkpoint and back, and checks checkpoints.

    python -m r1jax.convert --input DeepSeek-R1 --output r1 --dtype fp8_blocks
    python -m r1jax.convert --verify r1
    python -m r1jax.convert --to-hf r1 --output DeepSeek-R1-again

A checkpoint is an Orbax directory with a manifest and the tokenizer. It grows in
`OUTPUT.partial` and appears under its name when it is complete. Whatever stops the
conversion, the same command goes on where it stood; memory stays small whatever the
size of the model.
"""

import argparse
import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence

import jax

from r1jax.command import Parser
from r1jax.errors import ConfigError, R1jaxError
from r1jax.locate import locate
from r1jax.weights import convert, to_hf, verify
from r1jax.weights.dtypes import DTYPES

_TRIM, _TOP_PAD, _MMAP = -1, -2, -3  # of mallopt(3), in bytes
PARTS = {
    "attention": "the projections of attention",
    "dense": "dense feed-forward layers and shared experts",
    "experts": "the routed experts",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what was asked; returns 0, 2 for bad input, 130 when interrupted."""
    try:
        args = parser().parse_args(arguments)
        _check(args)
        if "JAX_PLATFORMS" not in os.environ:
            jax.config.update("jax_platforms", "cpu")  # no accelerator is taken
        if args.verify:
            return _verify(args.verify)
        if args.to_hf:
            sys.stdout.write(f"{to_hf(args.to_hf, args.output, dtype=args.dtype)}\n")
        else:
            _convert(args)
    except R1jaxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    return 0


def _convert(args: argparse.Namespace) -> None:
    _keep_memory()
    parts = {f"{part}_dtype": getattr(args, f"{part}_dtype") for part in PARTS}
    try:
        report = convert(
            locate(args.input), args.output, dtype=args.dtype or "bfloat16", **parts
        )
    except KeyboardInterrupt:
        sys.stderr.write(
            f"{args.output} is not finished; the same command goes on where it stood "
            f"(or remove {args.output}.partial)\n"
        )
        raise
    sys.stdout.write(f"{report}\n")


def _keep_memory() -> None:
    """Tells glibc to keep freed memory: taking it again is much of the time.

    Its own limit adapts to what is freed, but not in threads. What is kept is bounded
    by what is in work. Another C library does not know the call.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in ((_TRIM, 2**30), (_TOP_PAD, 2**26), (_MMAP, 2**25)):
            mallopt(option, size)


def _verify(directory: str) -> int:
    leaves, wrong = verify(directory)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    if wrong:
        sys.stderr.write(
            f"error: {directory}: {len(wrong)} things are wrong\n"
            "  why: they differ from what was written, and might give wrong answers\n"
            "  fix: copy the checkpoint again, or convert again\n"
        )
        return 2
    sys.stdout.write(f"{leaves} leaves are as they were written: {directory}\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses options that would do nothing.

    Raises:
      ConfigError: An option is missing, or does not go with the others.
    """
    parts = [f"--{part}-dtype" for part in PARTS if getattr(args, f"{part}_dtype")]
    unused = parts if args.to_hf or args.verify else []
    if args.verify:
        unused += [f"--{n}" for n in ("output", "dtype") if getattr(args, n)]
    elif not args.output:
        raise ConfigError(
            "--output is missing", "it says where to write", "give a directory"
        )
    if unused:
        raise ConfigError(
            f"{', '.join(unused)} does nothing here",
            "only a conversion can change what weights are kept as"
            if args.to_hf
            else "a check changes nothing",
            "leave it out",
        )


def parser() -> argparse.ArgumentParser:
    """Builds the parser, with its help."""
    parser = Parser(
        prog="python -m r1jax.convert", description=(__doc__ or "").splitlines()[0]
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        metavar="SOURCE",
        help="convert a directory with config.json and safetensors, a GGUF file, or a "
        "Hugging Face repository (owner/name or owner/name@revision)",
    )
    source.add_argument(
        "--to-hf",
        metavar="CHECKPOINT",
        help="write a checkpoint as a Hugging Face directory",
    )
    source.add_argument(
        "--verify",
        metavar="CHECKPOINT",
        help="read all of a checkpoint and compare it with its digests",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="what is written; not there yet or empty"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the weights (bfloat16; with --to-hf as stored); some small ones are "
        "always float32, and beside weights of few bits embedding, head and norms are "
        "bfloat16",
    )
    for part, what in PARTS.items():
        parser.add_argument(
            f"--{part}-dtype",
            choices=DTYPES,
            help=f"of {what}, where it differs from --dtype",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
