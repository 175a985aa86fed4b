"""Parameters in memory become a Hugging Face directory, by the table that reads one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.config import ModelConfig
from r1jax.config_to_hf import to_hf as config_fields
from r1jax.text.gguf_export import write_tokenizer
from r1jax.typing import PyTree
from r1jax.weights import leaves, names
from r1jax.weights.hf import TOKENIZER_FILES
from r1jax.weights.place import check_place, whole_directory
from r1jax.weights.safetensors import header_of
from r1jax.weights.source import Source


def save_hf(
    config: ModelConfig,
    params: PyTree,
    output: str | Path,
    *,
    dtype: str = "bfloat16",
    source: Source | None = None,
    tokenizer: str | Path | None = None,
) -> Path:
    """Writes config.json, model.safetensors and the tokenizer's files.

    All of it or nothing: the directory gets its name when it is complete.

    Args:
      config: The model.
      params: Plain parameters, stacked by layer.
      output: The directory; not there yet, or empty.
      dtype: Of the tensors, but those that are always float32.
      source: Where the tokenizer is copied from; None for a model without one.
      tokenizer: A directory whose tokenizer is copied in place of the source's.

    Returns:
      The directory.

    Raises:
      CheckpointError: The output is not empty or cannot be written.
    """
    output = Path(output).absolute()
    check_place(output)
    with whole_directory(output) as partial:
        _write_tensors(config, params, partial / "model.safetensors", dtype)
        fields = config_fields(config) | {"torch_dtype": dtype}
        text = json.dumps(fields, indent=2, ensure_ascii=False)
        (partial / "config.json").write_text(text, encoding="utf-8")
        if source is not None:
            _write_tokenizer(source, partial)
        if tokenizer is not None:
            _copy_tokenizer(Path(tokenizer), partial)
    return output


def _write_tensors(config: ModelConfig, params: PyTree, path: Path, dtype: str) -> None:
    table = names.table(config, names.hf_layout(config))
    plain = names.arrays(config, np.dtype(dtype))
    kinds = {n: plain[table.by_source[n][0].path].dtype for n in table.shapes}
    header, _ = header_of((n, np.dtype(kinds[n]), s) for n, s in table.shapes.items())
    with path.open("wb") as file:
        file.write(header)
        for name, shape in table.shapes.items():
            out = np.empty(shape, kinds[name])
            for piece in table.by_source[name]:
                unit: Any = leaves.find(params, piece.path)
                part = np.asarray(unit[piece.index]).astype(kinds[name])
                rows, turned = piece.turn.align(out, part)
                rows[...] = turned
            file.write(out.reshape(-1).view(np.uint8).data)


def _write_tokenizer(source: Source, directory: Path) -> None:
    if source.tokenizer_fields is not None:
        write_tokenizer(source.tokenizer_fields, directory)
    elif source.tokenizer_directory is not None:
        _copy_tokenizer(source.tokenizer_directory, directory)
    if source.generation:
        text = json.dumps(dict(source.generation), indent=2, ensure_ascii=False)
        (directory / "generation_config.json").write_text(text, encoding="utf-8")


def _copy_tokenizer(start: Path, directory: Path) -> None:
    for name in TOKENIZER_FILES:
        if (start / name).exists():
            shutil.copyfile(start / name, directory / name)
