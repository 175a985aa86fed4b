"""Results as a table, a JSON file and a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.command import require
from r1jax.evaluate.estimates import Estimate
from r1jax.evaluate.published import CONS_AT_64, NAMES, PASS_AT_1
from r1jax.evaluate.run import Result

_HEADS = (
    "task", "problems", "k", "pass@1", "± se", "95 %", "cons@k", "pass@k",
    "tokens", "truncated", "no answer",
)  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """Draws results, then what the paper has for the same tasks."""
    rows = [_HEADS, *(_row(result) for result in results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS))]
    lines = []
    for row in rows:
        cells = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells))
    for result in results:
        lines += _groups(result) + _published(result.task)
        if result.unjudged:
            lines.append(
                f"{result.task}: {result.unjudged} answers could not be judged and "
                "count as wrong; grades.jsonl says why"
            )
    return "\n".join(lines) + "\n"


def write_results(
    folder: Path, model: str, settings: Mapping[str, Any], results: Sequence[Result]
) -> None:
    """Writes `results.json`, whole or not at all."""
    known: dict[str, Any] = {"model": model, **settings}
    known["results"] = [_finite(result.as_json()) for result in results]
    new = folder / "results.new"
    new.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / "results.json")


def figure_class() -> Any:
    """Returns what pictures are drawn by.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    require("evaluate", "matplotlib")
    from matplotlib.figure import Figure

    return Figure


def draw(path: Path, model: str, results: Sequence[Result]) -> None:
    """Draws pass@1 with its interval beside the published numbers.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    figure = figure_class()(figsize=(8, 1 + 2.5 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), 1, squeeze=False)
    for panel, result in zip(panels[:, 0], results, strict=True):
        published = dict(PASS_AT_1.get(result.task, {}))
        names = [Path(model).name or model, *published]
        one = result.pass_at_1
        values = [100 * one.mean, *published.values()]
        panel.barh(names, values, color=["C0"] + ["0.75"] * len(published))
        panel.errorbar(
            [values[0]],
            [0],
            xerr=[[100 * (one.mean - one.low)], [100 * (one.high - one.mean)]],
            color="black",
            capsize=3,
        )
        panel.invert_yaxis()
        panel.set_xlim(0, 100)
        grey = f" (grey: published of {NAMES[result.task]})" if published else ""
        panel.set_xlabel(f"pass@1 in percent{grey}")
        panel.set_title(
            f"{result.task}: {result.problems} problems, {result.samples} samples each"
        )
    figure.savefig(path)


def _row(result: Result) -> tuple[str, ...]:
    one = result.pass_at_1
    return (
        result.task,
        str(result.problems),
        str(result.samples),
        _percent(one.mean),
        _percent(one.stderr),
        f"{_percent(one.low)}..{_percent(one.high)}",
        "-" if result.cons_at_k is None else _with_error(result.cons_at_k),
        _percent(result.pass_at_k[result.samples]),
        f"{result.tokens:.0f}",
        _percent(result.truncated),
        _percent(result.unanswered),
    )


def _groups(result: Result) -> list[str]:
    return [
        f"  {name}: pass@1 {_percent(mean)} of {count} problems"
        for name, (mean, count) in result.groups.items()
    ]


def _published(task: str) -> list[str]:
    """Gives the published numbers of a task."""
    lines = []
    for name, numbers in (("pass@1", PASS_AT_1), ("cons@64", CONS_AT_64)):
        known = numbers.get(task, {})
        if known:
            listed = ", ".join(f"{model} {value}" for model, value in known.items())
            lines.append(f"published {name} of {NAMES[task]}: {listed}")
    return lines


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _with_error(estimate: Estimate) -> str:
    return f"{_percent(estimate.mean)} ± {_percent(estimate.stderr)}"


def _finite(value: Any) -> Any:
    """Writes null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
