"""Presets by name: the models that r1jax knows without a checkpoint.

The sizes stand in `configs/` at the top of the repository, one file a family; when
installed, that folder is the package `r1jax.configs`.
"""

import difflib
import importlib

from r1jax.config import ModelConfig
from r1jax.errors import ConfigError

# Name of a preset, to the file in configs/ and the argument of its `get_config`.
_PLACES: dict[str, tuple[str, ...]] = {
    "r1": ("r1", "r1"),
    "r1-zero": ("r1", "r1-zero"),
    "v3-base": ("r1", "v3-base"),
    "v3-0324": ("r1", "v3-0324"),
    "r1-0528": ("r1", "r1-0528"),
    "distill-qwen-1.5b": ("distill_qwen", "1.5b"),
    "distill-qwen-7b": ("distill_qwen", "7b"),
    "distill-qwen-14b": ("distill_qwen", "14b"),
    "distill-qwen-32b": ("distill_qwen", "32b"),
    "distill-llama-8b": ("distill_llama", "8b"),
    "distill-llama-70b": ("distill_llama", "70b"),
    "r1-0528-qwen3-8b": ("qwen3_8b",),
    "deepseek-118m": ("deepseek_118m",),
    "nano": ("nano", "nano"),
    "nano-ci": ("nano", "nano-ci"),
    "nano-dense": ("nano", "nano-dense"),
    "tiny-r1": ("tiny", "r1"),
    "tiny-qwen2": ("tiny", "qwen2"),
    "tiny-llama": ("tiny", "llama"),
    "tiny-qwen3": ("tiny", "qwen3"),
}

NAMES = tuple(_PLACES)


def preset(name: str) -> ModelConfig:
    """Returns the config of the preset called `name`, in any case of letters.

    Raises:
      ConfigError: There is no such preset; the nearest name is offered.
    """
    place = _PLACES.get(name.lower())
    if place is None:
        near = difflib.get_close_matches(name.lower(), NAMES, 1)
        raise ConfigError(
            f"no preset is called {name!r}",
            f"the presets are {', '.join(NAMES)}",
            f"did you mean {near[0]!r}?" if near else "use one of them",
        )
    file, *arguments = place
    module = importlib.import_module(f"r1jax.configs.{file}")
    return ModelConfig.from_dict(module.get_config(*arguments).to_dict())
