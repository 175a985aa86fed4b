"""What the seeds of a claim say together: means with errors, a table, a picture."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.evaluate.report import figure_class

Found = Mapping[str, Mapping[str, float]]  # what was measured, by the model's name
More = tuple[str, str, str]  # a quantity, and the model that has less, and more of it
_MEASURED = {"accuracy": "pass@1", "thinking": "thinking", "tokens": "tokens"}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns each seed's value, the mean, and its standard error over seeds.

    The error ("se") is None where there is one seed.
    """
    several = len(values) > 1
    error = statistics.stdev(values) / math.sqrt(len(values)) if several else None
    return {"mean": statistics.fmean(values), "se": error, "each": list(values)}


def summary(
    seeds: Sequence[Found], seconds: Sequence[Mapping[str, float]], says: Sequence[More]
) -> dict[str, Any]:
    """Puts seeds together.

    Args:
      seeds: What each measured.
      seconds: CPU seconds of each one's runs; what all share is the first one's.
      says: What the claim says; differences are taken within a seed.
    """
    models = {
        name: {key: spread([seed[name][key] for seed in seeds]) for key in _MEASURED}
        for name in seeds[0]
    }
    differences = [
        {"of": key, "from": less, "to": more}
        | spread([seed[more][key] - seed[less][key] for seed in seeds])
        for key, less, more in says
    ]
    spent = {
        name: spread([each[name] for each in seconds if name in each])
        for name in seconds[0]
    }
    return {"models": models, "differences": differences, "cpu_seconds": spent}


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes `results.json` and draws `results.png`.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
    _draw(folder / "results.png", results)


def table(results: Mapping[str, Any]) -> str:
    """Puts results into lines: models, differences, CPU seconds."""
    lines = ["".join([" " * 20, *(f"{head:>17}" for head in _MEASURED.values())])]
    for name, found in results["models"].items():
        cells = (f"{_shown(found[key]):>17}" for key in _MEASURED)
        lines.append("".join([f"{name:20}", *cells]))
    for each in results["differences"]:
        what = f"{_MEASURED[each['of']]}, from {each['from']} to {each['to']}"
        lines.append(f"{what}: {_shown(each)}")
    for name, found in results["cpu_seconds"].items():
        lines.append(f"CPU seconds of {name}: {_shown(found)}")
    return "\n".join(lines) + "\n"


def _shown(found: Mapping[str, Any]) -> str:
    digits = 3 if abs(found["mean"]) < 10 else 1
    mean = f"{found['mean']:.{digits}f}"
    return mean if found["se"] is None else f"{mean} ± {found['se']:.{digits}f}"


def _draw(path: Path, results: Mapping[str, Any]) -> None:
    """Draws models as bars, and the runs by rewards as curves, each with its errors."""
    figure = figure_class()(figsize=(8, 5.4), layout="constrained")
    rows = zip(figure.subplots(2, 2), ("accuracy", "tokens"), strict=True)
    for (bars, curves), key in rows:
        _bars(bars, key, results["models"])
        _curves(curves, key, results["curves"])
    count = results["settings"]["held_out"]
    bars.set_xlabel(f"{count} problems held out, at temperature 1")
    curves.set_xlabel("steps of RL; the problems it learns from")
    seeds = results["seeds"]
    figure.suptitle(f"{results['claim']}: mean ± standard error of {seeds} seed(s)")
    figure.savefig(path, dpi=90)


def _bars(axes: Any, key: str, models: Mapping[str, Any]) -> None:
    names = [name.replace(", ", ",\n") for name in models]
    means = [found[key]["mean"] for found in models.values()]
    errors = [found[key]["se"] or 0.0 for found in models.values()]
    drawn = axes.bar(names, means, yerr=errors, capsize=3, color="C0", alpha=0.7)
    digits = 3 if key == "accuracy" else 1
    axes.bar_label(drawn, [f"{mean:.{digits}f}" for mean in means], fontsize=8)
    axes.margins(y=0.15)
    axes.set_ylabel("pass@1" if key == "accuracy" else "tokens of an answer")
    axes.tick_params(axis="x", labelsize=8)


def _curves(axes: Any, key: str, curves: Mapping[str, Sequence[Any]]) -> None:
    for name, seeds in curves.items():
        at = [spread(step) for step in zip(*(seed[key] for seed in seeds), strict=True)]
        steps = range(1, len(at) + 1)
        [line] = axes.plot(steps, [each["mean"] for each in at], label=name)
        low, high = (
            [each["mean"] + sign * (each["se"] or 0.0) for each in at]
            for sign in (-1, 1)
        )
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.25)
    axes.legend(fontsize=8)
