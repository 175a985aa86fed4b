"""A repository becomes a directory that can be opened, or is converted and kept."""

from collections.abc import Callable
from pathlib import Path

from r1jax.checkpoints.kept import form_of, is_whole, place
from r1jax.config import ModelConfig
from r1jax.config_hf import from_hf
from r1jax.errors import CheckpointError
from r1jax.hub import Repository, bring_weights, describe
from r1jax.quant import Scheme
from r1jax.weights import Report, convert
from r1jax.weights.dtypes import chosen_scheme
from r1jax.weights.files import read_json
from r1jax.weights.hf import check_quantization

# What a model's weights are to be loaded as: the float type, and what is in few bits.
Forms = Callable[[ModelConfig], tuple[str, Scheme | None]]


def fetch(repository: Repository, forms: Forms | None = None) -> Path:
    """Finds a repository's checkpoint: one that is kept converted, or the release.

    What r1jax cannot load is refused before its weights are fetched.

    Args:
      repository: Where the weights are.
      forms: What they are to be loaded as; a kept checkpoint is taken only where it is
        in this form, and gives the values that the release would. None takes the
        release.

    Raises:
      CheckpointError: As said in `r1jax.hub`, or its weights are quantised in a way
        that is not read.
      ConfigError: It is of a model that r1jax does not have, or the forms do not fit.
    """
    directory, config = _described(repository)
    if forms is not None:
        commit = Repository(repository.name, directory.name)
        path = place(commit, form_of(*forms(config)))
        if is_whole(path):
            return path
    bring_weights(repository, directory)
    return directory


def add(
    repository: Repository,
    *,
    dtype: str = "bfloat16",
    attention_dtype: str | None = None,
    dense_dtype: str | None = None,
    experts_dtype: str | None = None,
) -> tuple[Path, Report | None]:
    """Converts a repository's weights and keeps them, where they are not kept yet.

    Args:
      repository: Where the weights are.
      dtype: As in `r1jax.weights.convert`, and the others as well.
      attention_dtype: Of the projections of attention, where it differs.
      dense_dtype: Of dense feed-forward layers and shared experts, where it differs.
      experts_dtype: Of the routed experts, where it differs.

    Returns:
      The checkpoint, and what was done; None where it was there.

    Raises:
      CheckpointError: As said in `fetch` and `r1jax.weights.convert`.
      ConfigError: The same.
    """
    directory, config = _described(repository)
    parts = (attention_dtype, dense_dtype, experts_dtype)
    commit = Repository(repository.name, directory.name)
    output = place(commit, form_of(*chosen_scheme(config, dtype, *parts)))
    if is_whole(output):
        return output, None
    bring_weights(repository, directory)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{output.parent} cannot be made",
            str(error),
            "let R1JAX_CHECKPOINTS name a directory where you may write",
        ) from None
    report = convert(
        directory,
        output,
        dtype=dtype,
        attention_dtype=attention_dtype,
        dense_dtype=dense_dtype,
        experts_dtype=experts_dtype,
    )
    return output, report


def _described(repository: Repository) -> tuple[Path, ModelConfig]:
    directory = describe(repository)
    fields = read_json(directory / "config.json")
    check_quantization(directory, fields.get("quantization_config"))
    return directory, from_hf(fields)
