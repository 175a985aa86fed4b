"""Every notebook is what its text makes, and runs from top to bottom on a CPU."""

import json
import os
import subprocess
import sys

import pytest

import make_notebooks

NAMES = ["chat", "evaluate", "inside", "learn", "plan", "shards"]
REPOSITORY = make_notebooks.FOLDER.parent


def test_all_of_them_are_known():
    assert [source.stem for source in make_notebooks.sources()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_what_its_text_makes(name):
    pytest.importorskip("jupytext", reason="it comes with the notebooks extra")
    source = make_notebooks.FOLDER / f"{name}.py"
    kept = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert kept == make_notebooks.text(source)
    cells = json.loads(kept)["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def _one_a_commit() -> list[object]:
    """Takes turns: one of them always runs, the others are slow."""
    command = ["git", "-C", str(REPOSITORY), "rev-list", "--count", "HEAD"]
    try:
        count = int(subprocess.run(command, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):  # no checkout
        count = 0
    turn, slow = count % len(NAMES), pytest.mark.slow(minutes=3)
    return [
        name if at == turn else pytest.param(name, marks=slow)
        for at, name in enumerate(NAMES)
    ]


@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("name", _one_a_commit())
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="it comes with the same extra")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), *sys.path]))
    made = nbformat.read(make_notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(made, timeout=600, resources=where).execute()
    told = "".join(out.get("text", "") for out in made.cells[-1].outputs)
    assert "GiB of the host's memory" in told
