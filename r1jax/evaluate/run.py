"""Draws the samples that are missing, and makes results of all."""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r1jax.errors import ConfigError
from r1jax.evaluate.estimates import (
    Estimate,
    consensus,
    over_problems,
    pass_at_1,
    pass_at_k,
)
from r1jax.evaluate.grading import Grade, grade
from r1jax.evaluate.models import Model
from r1jax.evaluate.samples import Ledger, Sample, seed_of
from r1jax.evaluate.tasks import Item, Task
from r1jax.remote import AskError, Sampling

_MOST_FAILURES = 5  # questions without an answer; then no more are asked


@dataclass(frozen=True)
class Plan:
    """How a task is asked.

    Attributes:
      sampling: How answers are drawn.
      samples: How many a problem.
      limit: How many problems, from the first; None for all.
      seed: From which every sample's own seed is made.
    """

    sampling: Sampling
    samples: int
    limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a task's samples say; docs/evaluation.md tells what each number means.

    Attributes:
      task: The task's name.
      problems: How many were asked.
      samples: How many times each.
      pass_at_1: The mean share of right answers.
      cons_at_k: The share of problems whose majority is right; None for code.
      pass_at_k: For some k, the chance that one of k answers is right.
      tokens: The mean length of an answer, thoughts included.
      truncated: The share of answers cut off by the limit of tokens.
      unanswered: The share in which no answer was found.
      unjudged: How many a grader could not judge; they count as wrong.
      groups: pass@1 of parts of the task, and their numbers of problems.
    """

    task: str
    problems: int
    samples: int
    pass_at_1: Estimate
    cons_at_k: Estimate | None
    pass_at_k: Mapping[int, float]
    tokens: float
    truncated: float
    unanswered: float
    unjudged: int
    groups: Mapping[str, tuple[float, int]]

    def as_json(self) -> dict[str, Any]:
        """Gives what `results.json` holds."""
        return dataclasses.asdict(self)


def evaluate(model: Model, task: Task, plan: Plan, folder: Path) -> Result:
    """Asks a model what has not been asked yet, and judges all.

    Args:
      model: Whom to ask.
      task: What.
      plan: How.
      folder: Where samples lie; a rerun goes on with them.

    Raises:
      ConfigError: `folder` holds samples of other settings.
      AskError: Some samples did not come. Those that came are kept.
    """
    items = task.items[: plan.limit]
    settings = {
        "task": task.name,
        "problems_digest": task.digest,
        "model": model.name,
        **dataclasses.asdict(plan.sampling),
        "seed": plan.seed,
    }
    with Ledger(folder, settings) as ledger:
        _draw(model, task, items, plan, ledger)
        several = {
            item: [ledger.samples[item.key, n] for n in range(plan.samples)]
            for item in items
        }
    grades = grade(task, several)
    _keep_grades(folder, several, grades)
    return summarise(task, several, grades)


def summarise(
    task: Task,
    several: Mapping[Item, Sequence[Sample]],
    grades: Sequence[Sequence[Grade]],
) -> Result:
    """Makes the numbers of a report from judged samples."""
    k = len(grades[0])
    right = [[each.correct for each in problem] for problem in grades]
    votes = [[each.vote for each in problem] for problem in grades]
    scores = [pass_at_1(problem) for problem in right]
    cons = [consensus(v, r) for v, r in zip(votes, right, strict=True)]
    powers = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n < k]
    flat = [sample for problem in several.values() for sample in problem]
    judged = [each for problem in grades for each in problem]
    groups: dict[str, list[float]] = {}
    for item, score in zip(several, scores, strict=True):
        groups.setdefault(item.group, []).append(score)
    return Result(
        task.name,
        len(grades),
        k,
        over_problems(scores),
        None if task.judge == "code" else over_problems(cons),
        {
            n: sum(pass_at_k(k, sum(problem), n) for problem in right) / len(right)
            for n in dict.fromkeys([*powers, k])
        },
        sum(sample.tokens for sample in flat) / len(flat),
        sum(sample.finish == "length" for sample in flat) / len(flat),
        sum(each.answer is None for each in judged) / len(judged),
        sum(each.answer is not None and bool(each.note) for each in judged)
        if task.judge == "maths"
        else 0,
        {
            name: (sum(means) / len(means), len(means))
            for name, means in sorted(groups.items())
            if name
        },
    )


def _draw(
    model: Model, task: Task, items: Sequence[Item], plan: Plan, ledger: Ledger
) -> None:
    """Asks for all missing samples, each problem's first ones before second ones."""
    numbered = itertools.product(range(plan.samples), items)
    missing = [(i, n) for n, i in numbered if (i.key, n) not in ledger.samples]
    failures: list[AskError] = []
    waiting = iter(missing)
    running: dict[Future[Sample], None] = {}

    def ask(item: Item, number: int) -> Sample:
        seed = seed_of(plan.seed, item.key, number)
        said = model.ask(item.question, plan.sampling, seed)
        return Sample(item.key, number, seed, **dataclasses.asdict(said))

    total = len(items) * plan.samples
    bar = tqdm(total=total, initial=total - len(missing), desc=task.name, disable=None)
    pool = ThreadPoolExecutor(model.concurrency)
    try:
        while len(failures) < _MOST_FAILURES:
            for item, number in itertools.islice(
                waiting, model.concurrency - len(running)
            ):
                running[pool.submit(ask, item, number)] = None
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                _collect(future, ledger, failures)
                bar.update()
        for future in running:  # those asked already are worth keeping
            _collect(future, ledger, failures)
    finally:  # whoever interrupts does not wait: the model is closed under the threads
        pool.shutdown(wait=False, cancel_futures=True)
        bar.close()
    short = [each for each in missing if (each[0].key, each[1]) not in ledger.samples]
    if short:
        raise AskError(
            f"{len(short)} of {len(items) * plan.samples} samples of {task.name} did "
            f"not come: {failures[0].what}",
            failures[0].why or "a score of fewer samples would not be what it says",
            "the others are kept: mend this and give the same command again",
        )


def _collect(future: Future[Sample], ledger: Ledger, failures: list[AskError]) -> None:
    try:
        ledger.add(future.result())
    except AskError as error:
        failures.append(error)


def _keep_grades(
    folder: Path,
    several: Mapping[Item, Sequence[Sample]],
    grades: Sequence[Sequence[Grade]],
) -> None:
    """Writes each sample's judgement, for whoever wants to look."""
    lines = []
    for (item, samples), judged in zip(several.items(), grades, strict=True):
        for sample, each in zip(samples, judged, strict=True):
            known = dataclasses.asdict(each)
            line = {"key": item.key, "number": sample.number, **known}
            lines.append(
                json.dumps({**line, "truth": item.truth}, ensure_ascii=False) + "\n"
            )
    new = folder / "grades.new"
    new.write_text("".join(lines), encoding="utf-8")
    os.replace(new, folder / "grades.jsonl")


def check_plan(plan: Plan) -> None:
    """Refuses plans that cannot be followed.

    Raises:
      ConfigError: Names the value.
    """
    if plan.samples > 1 and plan.sampling.temperature == 0:
        raise ConfigError(
            f"{plan.samples} samples at temperature 0",
            "all of them would be the same",
            "set --samples 1, or a temperature above 0",
        )
