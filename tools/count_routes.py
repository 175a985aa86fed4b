"""Counts which experts a model's routers choose on given sequences.

    python tools/count_routes.py --input r1 --sequences asked.jsonl --output loads.json

Each line of the sequences is JSON: a text, or a list of token ids. Take what users ask
together with what they are answered. The output is what `--expert-loads` of the server
and `r1jax.load(expert_loads=...)` read. Every sequence runs whole, without a cache.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from r1jax import LLM, R1jaxError, load, make_mesh, save_expert_loads
from r1jax.errors import RequestError


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts and writes; returns 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--input", required=True, metavar="SOURCE", help="a model, as for the server")
    add("--sequences", required=True, metavar="FILE", help="JSON lines")
    add("--output", required=True, metavar="FILE", help="the counts, JSON")
    add("--dtype", help="of the weights, as for the server")
    add("--tensor-parallel-size", type=int, default=1, help="devices (%(default)s)")
    args = parser.parse_args(arguments)
    devices = args.tensor_parallel_size
    try:
        lines = list(_lines(args.sequences))
        mesh = make_mesh(1, devices) if devices > 1 else None
        llm = load(args.input, dtype=args.dtype, mesh=mesh)
        sequences = [_ids(llm, value) for value in lines]
        loads = llm.count_routes(sequences)
        save_expert_loads(args.output, llm.config, loads)
    except R1jaxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    busiest = (loads.max(1) / loads.mean(1)).max()
    tokens = sum(map(len, sequences))
    sys.stdout.write(
        f"{tokens:,} tokens of {len(sequences):,} sequences; the busiest expert of a "
        f"layer was chosen {busiest:.1f} times as often as its mean: {args.output}\n"
    )
    return 0


def _lines(path: str) -> Iterator[str | list[int]]:
    """Reads the sequences.

    Raises:
      RequestError: The file cannot be read, or a line is neither of the two kinds.
    """
    kinds = "each line is JSON: a text, or a list of token ids"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise RequestError(f"{path} cannot be read", why, kinds) from None
    if not lines:
        raise RequestError(f"{path} is empty", "there is nothing to count", kinds)
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        is_ids = isinstance(value, list) and all(type(i) is int for i in value)
        if not (is_ids or isinstance(value, str)):
            raise RequestError(
                f"{path}, line {number}: {line[:60]}",
                "it is no JSON, or neither a text nor token ids",
                kinds,
            )
        yield value


def _ids(llm: LLM, value: str | list[int]) -> list[int]:
    return llm.tokenizer.encode_prompt(value) if isinstance(value, str) else value


if __name__ == "__main__":
    sys.exit(main())
