"""Counted routing on disk: how often each layer chose each expert, and of which model.

A JSON object: `moe_layers` and `experts`, by which the file is held to its model, and
`loads`, a list for each layer with experts.
"""

import json
import os
from pathlib import Path

import numpy as np

from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights.files import read_json

_COUNT = "count them with tools/count_routes.py, or LLM.count_routes"


def save_expert_loads(
    path: str | os.PathLike[str], config: ModelConfig, loads: np.ndarray
) -> None:
    """Writes what `LLM.count_routes` gave, for `load(expert_loads=...)`.

    The file appears whole or not at all.

    Args:
      path: Where to; what is there is replaced.
      config: The model that was counted.
      loads: [L, E].

    Raises:
      ConfigError: The loads are not of such a model.
      CheckpointError: The file cannot be written.
    """
    path, shape = Path(path), _shape(config)
    trouble = _trouble(loads, shape)
    if trouble:
        raise ConfigError("these expert loads cannot be saved", trouble, _COUNT)
    body = {"moe_layers": shape[0], "experts": shape[1], "loads": loads.tolist()}
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(body))
        part.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written", str(error.strerror), "choose another path"
        ) from None


def read_expert_loads(path: str | os.PathLike[str], config: ModelConfig) -> np.ndarray:
    """Reads what `save_expert_loads` wrote, float64 [L, E].

    Raises:
      CheckpointError: The file is not there, is broken, or is of another model.
    """
    path, shape = Path(path), _shape(config)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is no file",
            "experts are placed by the counts in it",
            f"check the path, or {_COUNT}",
        )
    body = read_json(path)
    counted = (body.get("moe_layers"), body.get("experts"))
    if counted != shape:
        raise CheckpointError(
            f"{path} has loads of {counted[1]} experts in {counted[0]} layers",
            f"the model has {shape[1]} experts in {shape[0]} layers",
            f"for this model {_COUNT}",
        )
    try:
        loads = np.array(body.get("loads"), float)
    except (TypeError, ValueError):
        loads = np.array(np.nan)
    trouble = _trouble(loads, shape)
    if trouble:
        raise CheckpointError(f"{path} is damaged", trouble, f"again {_COUNT}")
    return loads


def _shape(config: ModelConfig) -> tuple[int, int]:
    return config.moe_layers, config.moe.experts if config.moe else 0


def _trouble(loads: np.ndarray, shape: tuple[int, int]) -> str:
    """Says why these are no loads of such a model, or nothing."""
    if loads.shape != shape:
        return f"loads are {list(loads.shape)} and should be {list(shape)}"
    if not (np.isfinite(loads).all() and (loads >= 0).all()):
        return "some are negative, or no numbers"
    return ""
