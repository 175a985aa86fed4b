"""What is trained: how it is opened, and how what was learnt is written."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from r1jax import parameters, sharding
from r1jax.config import ModelConfig
from r1jax.errors import ConfigError
from r1jax.locate import locate
from r1jax.presets import NAMES, preset
from r1jax.train import state
from r1jax.train.lora import Lora
from r1jax.train.state import State
from r1jax.typing import PyTree
from r1jax.weights import Source, open_source
from r1jax.weights.save import save_hf


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
      config: The model; without prediction layers unless they are trained.
      params: Float32, on the mesh.
      places: Each parameter's sharding.
      source: Where they come from; None for a preset.
    """

    config: ModelConfig
    params: PyTree
    places: PyTree
    source: Source | None


def describe(name: str, mtp: bool) -> tuple[ModelConfig, Source | None]:
    """Opens a checkpoint without its weights, or a preset (whose source is None).

    Args:
      name: A checkpoint, or a preset's name.
      mtp: Whether the prediction layer is trained too; the model has none otherwise.

    Raises:
      R1jaxError: There is no such model, or it cannot be trained so.
    """
    if not name:
        raise ConfigError(
            "no model is named",
            "training begins with a checkpoint, or a preset's random weights",
            f"set model to a directory or one of {', '.join(NAMES)}",
        )
    source = None if name.lower() in NAMES else open_source(locate(name))
    config = preset(name) if source is None else source.config
    if mtp and not config.mtp_layers:
        raise ConfigError(
            "loss.mtp_weight is set",
            f"{name} has no multi-token-prediction layer",
            "set it to 0",
        )
    if source is not None and source.scheme is not None:
        raise ConfigError(
            f"{name} is stored in few bits",
            "what was rounded is not trained: the steps are smaller than the rounding",
            "convert the release with --dtype bfloat16 or float32",
        )
    return config if mtp else dataclasses.replace(config, mtp_layers=0), source


def open_model(name: str, mesh: Any, mtp: bool, seed: int) -> Model:
    """Opens a checkpoint, or makes a preset's random parameters, on a mesh.

    Raises:
      R1jaxError: There is no such model, or it does not fit the mesh.
    """
    config, source = describe(name, mtp)
    shapes = parameters.abstract(config)
    axes = parameters.logical_axes(config)
    places = sharding.shardings(shapes, axes, mesh, "training")
    if source is None:
        make = jax.jit(
            lambda: parameters.init(config, jax.random.key(seed)), out_shardings=places
        )
        return Model(config, make(), places, None)
    params = source.params("float32", mtp=mtp, shardings=places)
    return Model(config, params, places, source)


def export(
    config: ModelConfig,
    source: Source | None,
    now: State,
    adapters: Lora | None,
    output: Path,
    dtype: str,
    tokenizer: str | None = None,
    untrained: bool = False,
) -> Path:
    """Writes a state as a Hugging Face directory, which `r1jax.load` takes.

    Args:
      config: The model that was trained.
      source: Where it came from; None for a preset.
      now: The state.
      adapters: What was adapted; None where all learnt.
      output: The run's directory.
      dtype: Of the tensors.
      tokenizer: A directory; None for the tokenizer of the source's own.
      untrained: Whether the source's prediction layers, which were not trained, are
        written as they are; otherwise the model has none.

    Returns:
      The directory written, `hf-STEP` in `output`.

    Raises:
      CheckpointError: It is there already, or cannot be written.
    """
    whole = jax.jit(lambda s: state.whole_params(s, adapters))(now)
    if untrained and source is not None and source.config.mtp_layers:
        ahead = source.params("float32", mtp=True)["mtp"]
        config, whole = source.config, {**whole, "mtp": ahead}
    place = output / f"hf-{int(now.step)}"
    return save_hf(
        config,
        whole,
        place,
        dtype=dtype,
        source=source,
        tokenizer=tokenizer,
    )
