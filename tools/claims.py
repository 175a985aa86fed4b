"""Shows a claim of R1's paper with models of a quarter of a million weights, on a CPU.

    python tools/claims.py zero --output runs/zero

`zero`: rewards alone make a base model right more often, and its answers longer.
`cold-start`: a few good thoughts first, then the same rewards, beat rewards alone.
`distill`: a good model's answers teach a small dense one more than rewards do, in the
same CPU time. Every seed has lessons, weights and sampling of its own; the problems
that measure are held out of training, and always the same. See docs/claims.md.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from claim_results import Found, More, summary, table, write
from claim_runs import Runs
from r1jax.command import Parser, whole
from r1jax.engine.programs import keep_compiled
from r1jax.errors import ConfigError, R1jaxError
from r1jax.evaluate.report import figure_class
from r1jax.train import settings

BASE, ALONE, COLD, THEN = "base", "RL alone", "cold start", "cold start, then RL"


@dataclass(frozen=True)
class Claim:
    """How a claim is shown, and what it says.

    Attributes:
      show: Makes the models of a seed and measures them.
      by_rewards: Those that rewards made, whose learning is drawn.
      says: Of what there is more in which model.
    """

    show: Callable[[Runs, ConfigDict], Found]
    by_rewards: Sequence[str]
    says: Sequence[More]


def zero(runs: Runs, config: ConfigDict) -> Found:
    """Teaches a base model mostly bare answers, then learns from rewards alone."""
    base = _base(runs, config)
    return _measured(runs, {BASE: base, ALONE: runs.reinforce(ALONE, base)})


def cold_start(runs: Runs, config: ConfigDict) -> Found:
    """Learns by the same rewards with and without good thoughts first."""
    base = _base(runs, config)
    alone = runs.reinforce(ALONE, base)
    thoughts = runs.lessons("thoughts", config.thoughts)
    cold = runs.fine_tune(COLD, base, thoughts, config.cold)
    then = runs.reinforce(THEN, cold)
    return _measured(runs, {BASE: base, ALONE: alone, COLD: cold, THEN: then})


def distill(runs: Runs, config: ConfigDict) -> Found:
    """Teaches a small base model by rewards, and by a good model's own answers."""
    teacher = _teacher(runs, config)
    base = _base(runs, config)
    alone = runs.reinforce(ALONE, base)
    kept = runs.keep("answers kept", teacher)
    student = runs.fine_tune("distilled", base, kept, config.student)
    models = {"teacher": teacher, BASE: base, ALONE: alone, "distilled": student}
    return _measured(runs, models)


CLAIMS: Mapping[str, Claim] = {
    "zero": Claim(zero, [ALONE], [("accuracy", BASE, ALONE), ("tokens", BASE, ALONE)]),
    "cold-start": Claim(cold_start, [ALONE, THEN], [("accuracy", ALONE, THEN)]),
    "distill": Claim(distill, [ALONE], [("accuracy", ALONE, "distilled")]),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows a claim; returns 0, 2 for bad input, 130 after Ctrl-C."""
    try:
        args = _parser().parse_args(arguments)
        config = settings.load(f"claims:{args.claim}", args.set)
        _check(config, args.output)
        keep_compiled(str(args.output / "compiled"))
        results = run(args.claim, config, args.seeds, args.output)
    except R1jaxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"{table(results)}{args.output}: results.json, results.png\n")
    return 0


def run(name: str, config: ConfigDict, seeds: int, output: Path) -> dict[str, Any]:
    """Shows a claim with so many seeds; writes and returns the results.

    Raises:
      R1jaxError: Something is wrong with the settings.
    """
    claim = CLAIMS[name]
    found, spent = [], []
    curves: dict[str, list[Any]] = {name: [] for name in claim.by_rewards}
    for seed in range(seeds):
        _say(f"seed {seed}")
        runs = Runs(config, output / _folder(seed), seed, _say)
        found.append(claim.show(runs, config))
        spent.append(runs.seconds)
        for model, several in curves.items():
            several.append(runs.curve(model))
    about = {"claim": name, "seeds": seeds, "settings": config.to_dict()}
    results = about | summary(found, spent, claim.says) | {"curves": curves}
    write(output, results)
    return results


def _base(runs: Runs, config: ConfigDict) -> Path:
    lessons = runs.lessons("base", **config.lessons)
    return runs.fine_tune(BASE, config.model, lessons, config.base)


def _teacher(runs: Runs, config: ConfigDict) -> Path:
    """Trains the teacher with the first seed; the others have the same one."""
    if runs.seed:
        first = Runs(config, runs.folder.parent / _folder(0), 0, _say)
        return first.model("teacher", config.teacher.steps)
    lessons = runs.lessons("teacher", config.lessons.count)
    return runs.fine_tune("teacher", "nano-ci", lessons, config.teacher)


def _folder(seed: int) -> str:
    return f"seed-{seed}"


def _measured(runs: Runs, models: Mapping[str, Path]) -> Found:
    return {name: runs.measure(model) for name, model in models.items()}


def _check(config: ConfigDict, output: Path) -> None:
    """Makes the directory, and refuses what would fail in the end only."""
    least = {"held_out": 1, "max_tokens": 1, "lessons.by_heart": 1}
    settings.at_least(config, least | {"rl.rewards.accuracy": 0.01})
    figure_class()
    try:
        output.mkdir(parents=True, exist_ok=True)
        used = any(output.iterdir())
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be made",
            f"{error.strerror}",
            "name a directory where you may write",
        ) from None
    if used:
        raise ConfigError(
            f"{output} is not empty",
            "nothing that exists is overwritten",
            "name another --output",
        )


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="claims", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("claim", choices=CLAIMS)
    add("--seeds", type=whole(1), default=3, help="how many (%(default)s)")
    add("--output", type=Path, required=True, help="a new directory")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="changes a setting of configs/claims.py, such as rl.steps=50",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
