"""An r1jax checkpoint becomes a Hugging Face directory again, shard by shard.

The table that reads the names writes them. Weights of few bits are widened to floats,
but for fp8 blocks, which are written as DeepSeek releases them.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r1jax import quant
from r1jax.config_to_hf import to_hf as config_fields
from r1jax.errors import ConfigError
from r1jax.text.gguf_export import write_tokenizer
from r1jax.weights.fp8 import BLOCK
from r1jax.weights.hf import TOKENIZER_FILES
from r1jax.weights.hf_files import shards_of, tensors_of, write_shards
from r1jax.weights.place import check_place, check_room, whole_directory
from r1jax.weights.store import OrbaxCheckpoint

FLOATS = ("bfloat16", "float16", "float32")
_FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      output: The directory.
      tensors: How many tensors.
      shards: In how many files.
      bytes_written: Their size.
      seconds: Wall time.
    """

    output: Path
    tensors: int
    shards: int
    bytes_written: int
    seconds: float

    def __str__(self) -> str:
        """Returns the report in one line."""
        return (
            f"{self.tensors} tensors in {self.shards} files, "
            f"{self.bytes_written / 1e9:.2f} GB in {self.seconds:.1f} s: {self.output}"
        )


def to_hf(
    source: str | Path, output: str | Path, *, dtype: str | None = None
) -> Exported:
    """Writes a checkpoint as config.json, safetensors and tokenizer files.

    All of it or nothing: the directory gets its name when it is complete.

    Args:
      source: An r1jax checkpoint.
      output: The directory; not there yet, or empty.
      dtype: bfloat16, float16, float32 or fp8_blocks; None for what is stored, and
        bfloat16 for other weights of few bits, as transformers does not know these.

    Raises:
      CheckpointError: The checkpoint is broken, the output is not empty, or there is no
        room for it.
      ConfigError: The dtype cannot be written from what is stored.
    """
    began = time.perf_counter()
    checkpoint, output = OrbaxCheckpoint(source), Path(output).absolute()
    float_type, blocks = _dtypes(checkpoint, dtype)
    check_place(output)
    tensors = list(tensors_of(checkpoint, np.dtype(float_type), blocks))
    total = sum(tensor.nbytes for tensor in tensors)
    check_room(output, total)
    shards = shards_of(tensors)
    with whole_directory(output) as partial:
        write_shards(checkpoint, partial, shards, total)
        _write_beside(checkpoint, partial, float_type, blocks)
    return Exported(
        output, len(tensors), len(shards), total, time.perf_counter() - began
    )


def _dtypes(checkpoint: OrbaxCheckpoint, dtype: str | None) -> tuple[str, bool]:
    """Returns the float type, and whether kernels are written as fp8 blocks."""
    experts = checkpoint.config.moe is not None
    stored = checkpoint.scheme == quant.scheme("fp8_blocks", experts)
    if dtype == "fp8_blocks" and not stored:
        raise ConfigError(
            "fp8_blocks cannot be written from this checkpoint",
            "its weights are stored as "
            f"{checkpoint.scheme or checkpoint.manifest['dtype']}",
            "choose bfloat16, or convert the release again with --dtype fp8_blocks",
        )
    if dtype not in (None, "fp8_blocks", *FLOATS):
        raise ConfigError(
            f"dtype is {dtype!r}",
            f"transformers reads {', '.join(FLOATS)} and fp8 blocks",
            "choose bfloat16",
        )
    blocks = stored and dtype in (None, "fp8_blocks")
    return str(checkpoint.manifest["dtype"] if blocks or not dtype else dtype), blocks


def _write_beside(
    checkpoint: OrbaxCheckpoint, directory: Path, float_type: str, blocks: bool
) -> None:
    """Writes config.json, generation_config.json and the tokenizer."""
    config, source = checkpoint.config, checkpoint.manifest["source"]["config"]
    fields: dict[str, Any] = dict(source or config_fields(config))
    if "num_nextn_predict_layers" in fields:
        fields["num_nextn_predict_layers"] = config.mtp_layers
    fields |= {"dtype" if "dtype" in fields else "torch_dtype": float_type}
    before = fields.pop("quantization_config", None)
    if blocks:
        fields["quantization_config"] = before or _FP8
    _write_json(directory / "config.json", fields)
    if checkpoint.generation:
        _write_json(directory / "generation_config.json", checkpoint.generation)
    if checkpoint.tokenizer_fields is not None:
        write_tokenizer(checkpoint.tokenizer_fields, directory)
        return
    for name in TOKENIZER_FILES:
        if (checkpoint.path / name).exists():
            shutil.copyfile(checkpoint.path / name, directory / name)


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False), encoding="utf-8")
