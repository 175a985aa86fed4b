"""A plan as a picture: what fills the memory, and what limits each step."""

from pathlib import Path
from typing import Any

from r1jax.errors import ConfigError
from r1jax.plan.report import Plan

_GIB = 2**30
_COLOURS = ("#3b6ea5", "#8fb0d3", "#d8a15b", "#6fae7f")


def check() -> None:
    """Sees whether pictures can be drawn, before anything takes time.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "a picture is asked for",
            "matplotlib, which draws it, is not installed",
            "pip install matplotlib, or leave out --picture: the table has bars",
        ) from None


def draw(plan: Plan, path: Path) -> None:
    """Draws a plan into a file.

    Raises:
      ConfigError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    top, left, right = figure.subplot_mosaic(
        [["memory", "memory"], ["roof", "steps"]], height_ratios=[1, 2.6]
    ).values()
    figure.suptitle(_title(plan), fontsize=12)
    _memory(top, plan)
    _roof(left, plan)
    _steps(right, plan)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot draw into {path}", str(error), "choose another --picture"
        ) from None


def _title(plan: Plan) -> str:
    on, by = plan.setup.on, " ".join(f"{k} {v}" for k, v in plan.versions.items())
    return (
        f"{plan.name} {plan.dtype} on {on.name}, {plan.batch} sequences of "
        f"{plan.setup.context:,} tokens (estimate: {by})"
    )


def _memory(axes: Any, plan: Plan) -> None:
    m, start = plan.memory, 0.0
    usable = m.usable or 0
    parts = {
        "weights": m.weights,
        "programs, padding": m.state,
        "temporaries": m.temporaries,
        f"cache: {m.tokens:,} tokens": max(m.cache, 0),
    }
    for (name, size), colour in zip(parts.items(), _COLOURS, strict=True):
        label = f"{name}, {size / _GIB:.2f} GiB"
        axes.barh(0, size / _GIB, left=start, color=colour, label=label)
        start += size / _GIB
    axes.axvline(usable / _GIB, color="black")
    axes.set_xlim(0, max(start, usable / _GIB) * 1.02)
    axes.set_yticks([])
    axes.set_xlabel("GiB of each device; the line is what a program may use")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.55), ncols=4, frameon=False)


def _roof(axes: Any, plan: Plan) -> None:
    generation = plan.setup.on.generation
    assert generation is not None
    chip = generation.chip
    peak, ridge = chip.peak["bfloat16"], chip.peak["bfloat16"] / chip.bandwidth
    found = {s.name: s.work.flops / s.work.bytes for s in plan.steps}
    low, high = min(*found.values(), ridge) / 4, max(*found.values(), ridge) * 4
    axes.loglog(
        [low, ridge, high],
        [low * chip.bandwidth / 1e12, peak / 1e12, peak / 1e12],
        color="black",
    )
    for (name, intensity), colour in zip(found.items(), _COLOURS[::2], strict=False):
        reached = min(intensity * chip.bandwidth, peak) / 1e12
        axes.plot(intensity, reached, "o", color=colour, markersize=9)
        axes.annotate(
            f"{name}\n{intensity:,.0f} op/B",
            (intensity, reached),
            textcoords="offset points",
            xytext=(8, -26),
        )
    axes.set_xlabel("operations for each byte read")
    axes.set_ylabel(f"TFLOP/s of a {chip.name} device")
    axes.set_title("roofline, exchanges left out", fontsize=10)
    axes.grid(which="major", alpha=0.3)


def _steps(axes: Any, plan: Plan) -> None:
    names = []
    for row, step in enumerate(plan.steps):
        assert step.floor is not None
        assert step.expected is not None
        floor = step.floor
        bars = (floor.memory, floor.compute, floor.exchange)
        limits = ("memory", "compute", "exchange")
        for i, (limit, seconds) in enumerate(zip(limits, bars, strict=True)):
            label = limit if row == 0 else None
            place = row + 0.27 * (i - 1)
            axes.barh(place, seconds * 1e3, 0.25, color=_COLOURS[i], label=label)
        for seconds, style, label in (
            (floor.seconds, "-", "floor"),
            (step.expected, ":", "expected"),
        ):
            axes.plot(
                [seconds * 1e3] * 2,
                [row - 0.42, row + 0.42],
                style,
                color="black",
                label=label if row == 0 else None,
            )
        names.append(step.name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of a step")
    axes.set_title("what limits a step", fontsize=10)
    axes.legend(fontsize=9)
