r"""Evaluates a model: `python -m r1jax.evaluate --task gsm8k --output DIR`.

A checkpoint in this process (--model, r1-nano by default) or a server
of OpenAI's API (--url) is asked by the protocol of R1's paper; see docs/evaluation.md.
The same command goes on where it was stopped.
"""

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from r1jax.command import Parser, whole
from r1jax.engine.programs import keep_compiled
from r1jax.engine.types import SamplingParams
from r1jax.errors import ConfigError, R1jaxError
from r1jax.evaluate import report, sandbox
from r1jax.evaluate.maths import Judges
from r1jax.evaluate.models import InProcess, Model
from r1jax.evaluate.run import Plan, check_plan, evaluate
from r1jax.evaluate.tasks import TASKS, Task, load_task
from r1jax.load import load
from r1jax.remote import AskError, Remote, Sampling

_FAILED, _BAD_INPUT = 1, 2  # exit codes: samples did not come; what the user can mend
_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates, prints the table, and gives the exit code."""
    try:
        args = parser().parse_args(arguments)
        _check(args)
        tasks = [load_task(name, args.data, args.seed) for name in args.task]
        _run(args, tasks)
    except AskError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _run(args: argparse.Namespace, tasks: Sequence[Task]) -> None:
    sampling = Sampling(args.temperature, args.top_p, args.max_tokens)
    plans = [
        Plan(sampling, args.samples or task.samples, args.limit, args.seed)
        for task in tasks
    ]
    for task, plan in zip(tasks, plans, strict=True):
        check_plan(plan)
        if task.judge == "maths":
            Judges().close()  # tells at once what would be missing at the end
    results = []
    with _Asked(args) as model:
        for task, plan in zip(tasks, plans, strict=True):
            folder = args.output / task.name
            results.append(evaluate(model, task, plan, folder))
        settings = {**dataclasses.asdict(sampling), "seed": args.seed}
        report.write_results(args.output, model.name, settings, results)
        sys.stdout.write(report.table(results))
        report.draw(args.output / "results.png", model.name, results)
    sys.stdout.write(f"{args.output}: results.json, results.png, and all samples\n")


class _Asked:
    """Opens whom to ask, and closes it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    def __enter__(self) -> Model:
        args = self._args
        if args.url:
            name, key = args.model_name, args.api_key
            concurrency = args.concurrency or 16
            remote = Remote(args.url, name, key, args.request_timeout, concurrency)
            self._close = remote.close
            return remote
        if args.compilation_cache:
            keep_compiled(args.compilation_cache)
        options = {"max_model_len": args.max_model_len, "dtype": args.dtype}
        llm = load(args.model, **options)
        self._close = llm.close
        model = InProcess(llm)
        model.concurrency = args.concurrency or model.concurrency
        return model

    def __exit__(self, *error: object) -> None:
        self._close()


def _check(args: argparse.Namespace) -> None:
    """Refuses options that contradict each other, before anything is loaded.

    Raises:
      ConfigError: Names them.
      RequestError: A number of the sampling is out of range.
    """
    local = ("model", "max_model_len", "dtype", "compilation_cache")
    remote = ("model_name", "api_key", "request_timeout")
    for name in local if args.url else remote:
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            where = "in process" if args.url else "with --url"
            raise ConfigError(
                f"{flag} counts {where} only",
                "here it would be ignored",
                f"leave out {flag}",
            )
    if args.request_timeout is None:
        args.request_timeout = 3600
    if args.data is not None and len(args.task) > 1:
        raise ConfigError(
            f"--data {args.data} with {len(args.task)} tasks",
            "a file has the problems of one task",
            "run one task at a time",
        )
    SamplingParams(args.temperature, args.top_p, max_tokens=args.max_tokens)
    if "humaneval" in args.task:
        if not args.run_code:
            raise ConfigError(
                "humaneval runs programs that the model wrote",
                "they run in a sandbox (docs/evaluation.md), which may have holes",
                "add --run-code if you want that",
            )
        sandbox.check()


def parser() -> Parser:
    """Builds the parser, with its help."""
    own = Parser(prog="python -m r1jax.evaluate", description=__doc__)
    add = own.add_argument
    add("--model", help="what r1jax.load takes; by default r1-nano")
    add("--url", help="a server of OpenAI's API instead")
    add("--model-name", help="what to ask the server for; by default its first model")
    add("--api-key", help="for the server; OPENAI_API_KEY by default")
    add("--request-timeout", type=whole(1), help="seconds for an answer; 3600")
    add("--task", nargs="+", required=True, choices=list(TASKS))
    add("--data", type=Path, help="a CSV or JSONL file of the task's problems")
    add("--output", type=Path, required=True, help="a folder for samples and results")
    add("--samples", type=whole(1), help="a problem; by default as in the paper")
    add("--limit", type=whole(1), help="ask the first so many problems only")
    add("--temperature", type=float, default=Sampling.temperature, help="%(default)s")
    add("--top-p", type=float, default=Sampling.top_p, help="%(default)s")
    add("--max-tokens", type=whole(1), default=Sampling.max_tokens, help="%(default)s")
    add("--seed", type=whole(0), default=0, help="of all samples' seeds; %(default)s")
    add("--concurrency", type=whole(1), help="questions at once")
    add("--run-code", action="store_true", help="run programs that the model wrote")
    add("--dtype", help="see r1jax.load")
    add("--max-model-len", type=whole(1), help="longest context in tokens")
    add("--compilation-cache", help="a folder that keeps compiled steps")
    return own


if __name__ == "__main__":
    code = main()
    if code == _INTERRUPTED:
        os._exit(code)  # Python would wait for threads that wait for answers
    sys.exit(code)
