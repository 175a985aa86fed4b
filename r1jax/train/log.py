"""A run's numbers: a line of JSON for each step, a progress bar, and a picture."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

FILE = "metrics.jsonl"


class Log:
    """Writes `metrics.jsonl` in a directory."""

    def __init__(self, directory: str | Path, steps: int = 0, done: int = 0) -> None:
        """Opens the file.

        Args:
          directory: Where; it must be there.
          steps: How many are to come in all, for the progress bar.
          done: Steps that a resumed run has behind it; later lines, of steps that were
            lost, are taken out.
        """
        self.path = Path(directory) / FILE
        kept = [line for line in read(self.path) if line["step"] <= done]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = tqdm(
            total=steps or None, initial=done, disable=not sys.stderr.isatty()
        )

    def write(self, step: int, **numbers: float) -> None:
        """Writes one line, at once, and shows the loss or what else comes first."""
        plain = {name: float(number) for name, number in numbers.items()}
        self._file.write(json.dumps({"step": step, **plain}) + "\n")
        self._file.flush()
        shown = {name: f"{number:.4g}" for name, number in list(plain.items())[:3]}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> Path | None:
        """Closes the file and draws the picture; None without matplotlib."""
        self.__exit__()
        return draw(self.path)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()
        self._bar.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file; none where there is no file.

    A last line that was cut off by a kill is left out.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise
    return found


def draw(path: Path) -> Path | None:
    """Draws every number over the steps into `metrics.png` beside the file."""
    lines = read(path)
    if not lines or importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for line in lines for name in line))
    names.remove("step")
    figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
    for axes, name in zip(
        figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True
    ):
        some = [line for line in lines if name in line]
        axes.plot([line["step"] for line in some], [line[name] for line in some])
        axes.set_ylabel(name)
    axes.set_xlabel("step")
    picture = path.with_suffix(".png")
    figure.savefig(picture)
    return picture
