"""What an importer and an installer get: little at once, all of it, and no more."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import r1jax

ROOT = Path(__file__).parents[1]
# What not every use needs, some of it seconds of importing, some of it in extras.
_HEAVY = {
    "gcsfs", "httpx", "huggingface_hub", "llguidance", "math_verify", "matplotlib",
    "optax", "orbax", "prometheus_client", "pydantic", "pytest", "starlette", "sympy",
    "tensorflow", "torch", "transformers", "uvicorn",
}  # fmt: skip
_IMPORT = """
import sys
import jax
import r1jax
jax.config.update("jax_num_cpu_devices", 3)  # raises where a device was touched
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
_LOAD = """
import r1jax
llm = r1jax.load(num_pages=4, max_model_len=256)
print(r1jax.__file__, llm.tokenizer.decode(llm.tokenizer.encode("7")))
"""


def _run(*command: object, **environment: str) -> str:
    """Runs a program far from this repository and returns what it prints."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(
        [*map(str, command)], cwd="/", env=kept, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_touches_no_device_and_brings_nothing_heavy():
    printed = _run(sys.executable, "-c", _IMPORT, PYTHONPATH=str(ROOT))
    assert not _HEAVY & set(printed.split())


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = next(line for line in text.splitlines() if line.startswith("## "))
    assert newest.split()[1] == r1jax.__version__


@dataclass(frozen=True)
class Built:
    """What was built: a wheel, an sdist, and a wheel of the sdist."""

    wheel: Path
    sdist: Path
    again: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """Builds a copy, as a build leaves things beside it, with what is installed."""
    pytest.importorskip("build", reason="it comes with the test extra")
    tree, output, again = (tmp_path_factory.mktemp(n) for n in ("tree", "one", "two"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    others = shutil.ignore_patterns("__pycache__", "configs")
    for name in ("configs", "r1jax"):
        shutil.copytree(ROOT / name, tree / name, ignore=others)
    (tree / "tests").mkdir()
    shutil.copy(__file__, tree / "tests")
    build = (sys.executable, "-m", "build", "--no-isolation")
    _run(*build, "--outdir", again, tree)
    _run(*build, "--outdir", output, "--wheel", tree)
    [wheel], [twin] = output.glob("*.whl"), again.glob("*.whl")
    [sdist] = again.glob("*.tar.gz")
    return Built(wheel, sdist, twin)


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _files(folder: Path) -> set[str]:
    """Lists what belongs to a package's folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in found}
    return {n for n in names if not n.startswith("configs/") and "__pycache__" not in n}


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_no_more_and_so_does_an_sdist(built):
    contents = _contents(built.wheel)
    about = f"r1jax-{r1jax.__version__}.dist-info/"
    held = {name for name in contents if not name.startswith(about)}
    configs = {f"r1jax/configs/{name}" for name in _files(ROOT / "configs")}
    assert held == {f"r1jax/{name}" for name in _files(ROOT / "r1jax")} | configs
    assert {"r1jax/py.typed", "r1jax/r1-nano/config.json"} < held
    fields = email.message_from_bytes(contents[f"{about}METADATA"])
    assert fields["Requires-Python"] == ">=3.11"
    assert _contents(built.again) == contents
    with tarfile.open(built.sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert "tests" not in top
    assert {"r1jax", "configs", "setup.py", "pyproject.toml", "LICENSE"} < top


@pytest.mark.slow
def test_an_installed_wheel_loads_the_model_inside_it(built, tmp_path):
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    _run(*pip, "install", "--no-deps", "--no-index", "--no-compile", built.wheel)
    [inside] = venv.glob("lib/python*/site-packages")
    # What it needs is where these tests have it.
    needs = [place for place in sys.path if place.endswith("-packages")]
    (inside / "needs.pth").write_text("\n".join(needs))
    found, text = _run(python, "-c", _LOAD, JAX_PLATFORMS="cpu").split()
    assert Path(found).is_relative_to(venv)
    assert text == "7"
