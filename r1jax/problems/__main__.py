"""Prints problems: `python -m r1jax.problems --task add --count 5`."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from r1jax.command import Parser, whole
from r1jax.errors import ConfigError, R1jaxError
from r1jax.problems import tokenizer as nano
from r1jax.problems.chats import chats
from r1jax.problems.drawing import CHOICES, LANGUAGES, SPLITS, draw
from r1jax.problems.problem import Problem, as_messages
from r1jax.problems.tasks import LONGEST, TASKS

_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints examples or lengths, or writes files; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
        if options.write_tokenizer is not None:
            nano.write(options.write_tokenizer)
            print(f"wrote the tokenizer to {options.write_tokenizer}")
            return 0
        if options.chats and options.lessons is None:
            raise ConfigError(
                f"--chats {options.chats} without --lessons",
                "conversations are written, not printed",
                "add --lessons FILE, or leave it out",
            )
        tasks = options.task or TASKS
        if options.lessons is not None:
            _write_lessons(tasks, options)
            return 0
        if options.lengths:
            _print_lengths(tasks, options)
            return 0
        for problem in _drawn(tasks, options):
            print(f"[{problem.task}] {problem.question}")
            print(f"<think>\n{problem.thought}\n</think>\n{problem.answer}\n")
    except R1jaxError as error:
        print(error, file=sys.stderr)
        return _BAD_INPUT
    return 0


def _drawn(tasks: Sequence[str], options: argparse.Namespace) -> list[Problem]:
    return draw(
        tasks,
        options.count,
        options.seed,
        options.split,
        options.phrasings,
        options.language or LANGUAGES,
        options.digits,
    )


def _write_lessons(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Writes problems and conversations as `python -m r1jax.train` reads them."""
    talks = [as_messages(problem) for problem in _drawn(tasks, options)]
    talks += chats(options.chats, options.seed)
    try:
        with options.lessons.open("x", encoding="utf-8") as file:
            for messages in talks:
                line = json.dumps({"messages": messages}, ensure_ascii=False)
                file.write(f"{line}\n")
    except OSError as error:
        raise ConfigError(
            f"lessons cannot be written to {options.lessons}",
            f"{error.strerror}: a file that is there is not overwritten",
            "name a new file in a directory where you may write",
        ) from None
    print(f"wrote {len(talks)} conversations to {options.lessons}")


def _print_lengths(tasks: Sequence[str], options: argparse.Namespace) -> None:
    """Prints how many tokens questions and thoughts of each task take."""
    tokenizer = nano.train()
    print(f"{'tokens of':10} {'question':>8} {'thought':>8} {'longest thought':>15}")
    for task in tasks:
        problems = _drawn([task], options)
        lengths = [
            [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
            for texts in (
                [problem.question for problem in problems],
                [problem.thought for problem in problems],
            )
        ]
        questions, thoughts = map(statistics.fmean, lengths)
        print(f"{task:10} {questions:8.1f} {thoughts:8.1f} {max(lengths[1]):15}")


def parser() -> Parser:
    """Builds the parser, with its help."""
    parser = Parser(prog="python -m r1jax.problems", description=__doc__)
    add = parser.add_argument
    add("--task", action="append", choices=TASKS, help="may be repeated; all")
    add("--count", type=whole(1), default=5, help="problems in all (%(default)s)")
    add("--seed", type=whole(0), default=0, help="of the random numbers (%(default)s)")
    add("--split", choices=SPLITS, default="train", help="operands (%(default)s)")
    add("--phrasings", choices=CHOICES, default="train", help="(%(default)s)")
    add("--language", action="append", choices=LANGUAGES, help="may be repeated; all")
    add("--digits", type=whole(1, LONGEST), default=LONGEST, help="(%(default)s)")
    add("--chats", type=whole(0), default=0, help="conversations in lessons")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--lengths", action="store_true", help="instead, of COUNT problems a task")
    add("--lessons", type=Path, metavar="FILE", help="instead, JSON lines to train on")
    add("--write-tokenizer", type=Path, metavar="DIR", help="instead, r1-nano's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
