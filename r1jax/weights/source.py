"""The one door: a path becomes a source of parameters, whatever kind it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import Scheme
from r1jax.typing import PyTree
from r1jax.weights.bucket import is_address
from r1jax.weights.gguf import GgufCheckpoint
from r1jax.weights.hf import HfCheckpoint
from r1jax.weights.journal import is_partial
from r1jax.weights.manifest import MANIFEST
from r1jax.weights.store import OrbaxCheckpoint


class Source(Protocol):
    """A checkpoint that is opened and checked, its weights not read yet."""

    @property
    def kind(self) -> str:
        """One of "orbax", "hf" and "gguf"."""
        ...

    @property
    def path(self) -> Path:
        """The directory or file; of a checkpoint in a bucket, copies of its files."""
        ...

    @property
    def config(self) -> ModelConfig:
        """The model."""
        ...

    @property
    def generation(self) -> Mapping[str, Any]:
        """Fields of generation_config.json; empty where there is none."""
        ...

    @property
    def scheme(self) -> Scheme | None:
        """What is stored in few bits that stay so; None where nothing is."""
        ...

    @property
    def tokenizer_directory(self) -> Path | None:
        """The directory for `Tokenizer.from_directory`, or None."""
        ...

    @property
    def tokenizer_fields(self) -> Mapping[str, Any] | None:
        """The metadata for `Tokenizer.from_gguf_fields`, or None."""
        ...

    def params(
        self,
        dtype: Any,
        *,
        mtp: bool = False,
        shardings: PyTree = None,
        scheme: Scheme | None = None,
    ) -> PyTree:
        """Reads the parameters: numpy arrays, or jax arrays where shardings are given.

        Args:
          dtype: Of all plain leaves but those that are always float32.
          mtp: Whether to read the multi-token-prediction layers too.
          shardings: A tree of shardings like the parameters; more is allowed.
          scheme: What is to be in few bits; None for what `self.scheme` says. An r1jax
            checkpoint has no other.

        Raises:
          CheckpointError: The weights are damaged.
        """
        ...


def open_source(
    path: str | Path,
) -> OrbaxCheckpoint | HfCheckpoint | GgufCheckpoint:
    """Opens an r1jax checkpoint, a Hugging Face directory or a GGUF file.

    A directory may also hold just one GGUF file. An address in a bucket (gs://) is that
    of an r1jax checkpoint.

    Raises:
      CheckpointError: Nothing is there, it is none of these, or it is broken.
      ConfigError: It is of a model that r1jax does not have.
    """
    if is_address(path):
        return OrbaxCheckpoint(path)
    path = Path(path).expanduser()
    if is_partial(path):
        raise CheckpointError(
            f"{path} is a checkpoint that is not finished",
            "its conversion was stopped, or is still running",
            "run the same conversion again: it goes on where it stood",
        )
    if path.is_file():
        return GgufCheckpoint(path)
    if (path / MANIFEST).exists():
        return OrbaxCheckpoint(path)
    if (path / "config.json").exists() or any(path.glob("*.safetensors")):
        return HfCheckpoint(path)
    inside = sorted(path.glob("*.gguf"))
    if len(inside) == 1:
        return GgufCheckpoint(inside[0])
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist",
            "a model is a directory or a GGUF file",
            "check the path",
        )
    raise CheckpointError(
        f"{path} has no {MANIFEST}, no config.json and {len(inside)} GGUF files",
        "it is no r1jax checkpoint (or half of one), no Hugging Face directory, and "
        "which GGUF file is meant is not clear",
        "name a directory with config.json and safetensors, or one GGUF file",
    )
