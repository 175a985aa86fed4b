"""GGUF files: config, weights and tokenizer in one file, read without conversion.

Quantised weights are dequantised to float32 and rounded once to the wanted dtype.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.config import ModelConfig
from r1jax.errors import CheckpointError
from r1jax.quant import Scheme
from r1jax.typing import PyTree
from r1jax.weights import direct, leaves, names
from r1jax.weights.files import some
from r1jax.weights.gguf_config import from_gguf
from r1jax.weights.gguf_file import GgufFile, Stored
from r1jax.weights.gguf_names import ROPE_FACTORS, gguf_layout, harmless

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


class GgufCheckpoint:
    """An opened file; every name is accounted for, no weight is read yet.

    Attributes:
      kind: "gguf".
      scheme: None: what is read is multiplied out.
      path: The file.
      config: The model.
      generation: Empty: GGUF files do not say how to sample.
      fields: None: there is no config.json.
      table: Where the tensors belong.
      tensor_count: How many tensors the file holds.
    """

    kind = "gguf"
    scheme = None
    fields = None

    def __init__(self, path: str | Path) -> None:
        """Reads the metadata and where the tensors lie.

        Raises:
          CheckpointError: The file is damaged, or one of several; a tensor is missing,
            unknown, or has the wrong shape.
          ConfigError: It is of a model that r1jax does not have.
        """
        self.path = Path(path)
        opened = GgufFile(self.path)
        self._tensors = opened.tensors
        self.tensor_count = len(self._tensors)
        self.generation: Mapping[str, Any] = {}
        self.tokenizer_fields = {
            key: value
            for key, value in opened.fields.items()
            if key.startswith("tokenizer.")
        }
        _check_whole(self.path, opened.fields)
        embedding = self._tensors.get(_EMBEDDING)
        factors = self._tensors.get(ROPE_FACTORS)
        self.config: ModelConfig = from_gguf(
            opened.fields,
            vocab_size=embedding.shape[0] if embedding else 0,
            tied_head=_HEAD not in self._tensors,
            rope_factors=factors.read(0, factors.shape[0], None, np.float32)
            if factors
            else None,
        )
        layout = gguf_layout(self.config, self._tensors)
        self.table = names.table(self.config, layout)
        _account(self.path, self.table, self._tensors)

    @property
    def files(self) -> list[Path]:
        """The files that a conversion depends on."""
        return [self.path]

    @property
    def tokenizer_directory(self) -> None:
        """A file's tokenizer is metadata, never files."""

    def tensor(self, name: str) -> leaves.Tensor:
        """Returns one tensor."""
        return self._tensors[name]

    def params(
        self,
        dtype: Any,
        *,
        mtp: bool = False,
        shardings: PyTree = None,
        scheme: Scheme | None = None,
    ) -> PyTree:
        """Reads the parameters; see `r1jax.weights.direct.load`."""
        return direct.load(self, dtype, mtp=mtp, shardings=shardings, scheme=scheme)


def _check_whole(path: Path, fields: Mapping[str, Any]) -> None:
    parts = fields.get("split.count", 1)
    if parts != 1:
        raise CheckpointError(
            f"{path} is one of {parts} parts of a model",
            "r1jax reads GGUF models of one file",
            "join them: llama-gguf-split --merge FIRST-PART OUTPUT",
        )


def _account(path: Path, table: names.Table, found: Mapping[str, Stored]) -> None:
    """Matches the file's tensors with the table's, both ways."""
    missing = table.shapes.keys() - found.keys()
    if missing:
        raise CheckpointError(
            f"{path}: there is no tensor {some(missing)}",
            f"the metadata describes a model that needs {len(table.shapes)} tensors; "
            f"{len(missing)} are missing",
            "convert the model to GGUF again",
        )
    extra = [n for n in found if n not in table.shapes and not harmless(n, found)]
    if extra:
        others = f" ({len(extra)} such: {some(extra)})" if len(extra) > 1 else ""
        raise found[min(extra)].wrong(
            f"has no place in the model{others}",
            "the metadata describes a model without it",
            "convert the model to GGUF again",
        )
    for name, shape in table.shapes.items():
        if found[name].shape != shape:
            raise found[name].wrong(
                f"has shape {list(found[name].shape)}, expected {list(shape)}",
                "the metadata's sizes ask for the latter",
                "convert the model to GGUF again",
            )


def load_params(
    path: str | Path, dtype: Any, *, mtp: bool = False
) -> tuple[ModelConfig, PyTree]:
    """Reads a file's config and parameters into memory, without conversion.

    Raises:
      CheckpointError: As said in `GgufCheckpoint` and `r1jax.weights.direct.load`.
      ConfigError: It is of a model that r1jax does not have.
    """
    source = GgufCheckpoint(path)
    return source.config, source.params(dtype, mtp=mtp)
