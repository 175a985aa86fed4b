"""Every notebook is what its text makes, and runs from top to bottom on a CPU."""

import json
import os
import sys
from importlib import metadata

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


@pytest.mark.filterwarnings("default")  # Jupyter's own
@pytest.mark.parametrize("name", sorted(NAMES, key="learn".__ne__))  # the longest first
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="it comes with the same extra")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), *sys.path]))
    if metadata.version("jaxlib").startswith("0.10."):  # as in tests/conftest.py
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    made = nbformat.read(make_notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(made, timeout=600, resources=where).execute()
    told = "".join(out.get("text", "") for out in made.cells[-1].outputs)
    assert "GiB of the host's memory" in told
