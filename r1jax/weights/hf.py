"""Hugging Face directories: config.json, safetensors, tokenizer files.

Weights may be bfloat16, float16, float32, or fp8 (E4M3) with one float32 scale for each
128 x 128 block, as DeepSeek releases them. The scale multiplies, its name
`weight_scale_inv` notwithstanding, and may lie in another shard than the weight.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.config import ModelConfig
from r1jax.config_hf import from_hf
from r1jax.errors import CheckpointError
from r1jax.quant import Scheme
from r1jax.typing import PyTree
from r1jax.weights import direct, fp8, leaves, names
from r1jax.weights.files import read_json, some
from r1jax.weights.fp8 import BLOCK
from r1jax.weights.rounded import is_finite, rounded
from r1jax.weights.safetensors import DTYPES, Stored, open_shards

_LARGE = 2**20  # values of a tensor that is worth compiled code
_BAND = 512  # its rows that are read together
SCALE = "_scale_inv"
# Tables that old exports carry along; they follow from the config.
_COMPUTED = "rotary_emb.inv_freq"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TOKENIZER_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


class HfCheckpoint:
    """An opened directory; every name is accounted for, no weight is read yet.

    Attributes:
      kind: "hf".
      scheme: None: what is read is multiplied out.
      path: The directory.
      config: The model. Its `mtp_layers` is 0 where the checkpoint was saved without
        them, as transformers does.
      generation: What generation_config.json says; empty where there is none.
      fields: What config.json says.
      table: Where the tensors belong.
      tensor_count: How many tensors the files hold.
    """

    kind = "hf"
    scheme = None

    def __init__(self, path: str | Path) -> None:
        """Reads the config and all headers.

        Raises:
          CheckpointError: A file is missing or broken; a tensor is missing, unknown,
            or has the wrong shape or dtype.
          ConfigError: config.json asks for another model.
        """
        self.path = Path(path)
        self.fields = fields = read_json(self.path / "config.json")
        check_quantization(self.path, fields.get("quantization_config"))
        beside = self.path / "generation_config.json"
        self.generation = read_json(beside) if beside.exists() else {}
        self._stored = open_shards(self.path)
        self.tensor_count = len(self._stored)
        self.config, self.table = _account(self.path, from_hf(fields), self._stored)
        for name, shape in self.table.shapes.items():
            _check(self._stored, name, shape, self.table.may_be_fp8(name))
        _check_scales(self._stored)

    @property
    def files(self) -> list[Path]:
        """The files that a conversion depends on."""
        shards = {tensor.file.path for tensor in self._stored.values()}
        beside = ("config.json", "generation_config.json", *TOKENIZER_FILES)
        others = (self.path / name for name in beside)
        return sorted(shards) + [path for path in others if path.exists()]

    @property
    def tokenizer_directory(self) -> Path | None:
        """Where the tokenizer's files are; None where there are none."""
        return self.path if any((self.path / n).exists() for n in TOKENIZERS) else None

    @property
    def tokenizer_fields(self) -> None:
        """A directory's tokenizer is files, never metadata."""

    def tensor(self, name: str) -> leaves.Tensor:
        """Returns one tensor, its scales read and checked.

        Raises:
          CheckpointError: A scale is negative or no number.
        """
        stored = self._stored[name]
        if stored.dtype != "F8_E4M3":
            return _Plain(stored)
        return _Blocks(stored, _scales(self._stored[name + SCALE]))

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


class _Plain:
    """A tensor of floats."""

    def __init__(self, stored: Stored, scales: np.ndarray | None = None) -> None:
        self._stored, self.scales = stored, scales
        self.wrong = stored.wrong
        large = math.prod(stored.shape) >= _LARGE
        self.row_block = _BAND if large else 1

    def read(self, start: int, stop: int, slot: int | None, dtype: Any) -> np.ndarray:
        return rounded(self._stored.rows(start, stop), dtype, self.wrong)

    def read_fp8(self, start: int, stop: int) -> np.ndarray:
        return self._stored.rows(start, stop)


class _Blocks(_Plain):
    """A tensor of fp8 values with a scale for each block."""

    scales: np.ndarray

    def __init__(self, stored: Stored, scales: np.ndarray) -> None:
        super().__init__(stored, scales)
        self._fast = self.row_block == _BAND and fp8.is_fast(scales)

    def read(self, start: int, stop: int, slot: int | None, dtype: Any) -> np.ndarray:
        values = self._stored.rows(start, stop)
        if self._fast and start % BLOCK == 0:
            found = fp8.multiply_out_fast(values, self.scales, start, dtype)
            if is_finite(found):
                return found
        wide = fp8.multiply_out(values, self.scales, start)
        return rounded(wide, dtype, self.wrong)


def _scales(stored: Stored) -> np.ndarray:
    scales = stored.rows(0, stored.shape[0])
    bad = ~(np.isfinite(scales) & (scales >= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise stored.wrong(
            f"the scale of block ({row}, {column}) is {scales[row, column]}",
            "a block's scale is its largest value divided by 448: finite, not negative",
        )
    return scales


def check_quantization(path: Path, fields: Any) -> None:
    """Checks what config.json in a directory says of quantisation.

    Raises:
      CheckpointError: It is another than DeepSeek's.
    """
    if fields is None:
        return
    wanted = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    for key, value in wanted.items():
        found = fields.get(key, value) if isinstance(fields, Mapping) else fields
        if found != value:
            raise CheckpointError(
                f"{path / 'config.json'}: quantization_config has {key} {found!r}",
                f"of quantised weights only {key} {value!r} is read",
                "use the released fp8 or bfloat16 weights",
            )


def _account(
    path: Path, config: ModelConfig, stored: Mapping[str, Stored]
) -> tuple[ModelConfig, names.Table]:
    """Matches the names of the files with the table's, both ways."""
    table = names.table(config, names.hf_layout(config))
    found = {n for n in stored if not n.endswith((SCALE, _COMPUTED))}
    ahead = {n for n, pieces in table.by_source.items() if pieces[0].path[0] == "mtp"}
    if ahead and not ahead & found:
        return _account(path, dataclasses.replace(config, mtp_layers=0), stored)
    missing, extra = table.shapes.keys() - found, found - table.shapes.keys()
    if missing:
        raise CheckpointError(
            f"{path}: no file has tensor {some(missing)}",
            f"config.json describes a {config.family} model that needs "
            f"{len(table.shapes)} tensors; {len(missing)} are missing",
            "download the missing shards, or the config.json that belongs to these",
        )
    if config.tied_head and _HEAD in extra:
        _check_tied(stored)
        extra.remove(_HEAD)
    if extra:
        first = min(extra)
        others = f" ({len(extra)} such: {some(extra)})" if len(extra) > 1 else ""
        raise stored[first].wrong(
            f"has no place in the model{others}",
            f"config.json describes a {config.family} model without it",
            "use the config.json that was released with these weights",
        )
    return config, table


def _check_tied(stored: Mapping[str, Stored]) -> None:
    """Allows a tied model's head only where it repeats the embedding."""
    head, embedding = stored[_HEAD], stored[_EMBEDDING]
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    step = max(1, 2**20 // max(1, head.shape[-1]))
    for start in range(0, head.shape[0], step) if same else ():
        stop = min(start + step, head.shape[0])
        rows, others = head.rows(start, stop), embedding.rows(start, stop)
        same = same and rows.tobytes() == others.tobytes()
    if not same:
        raise head.wrong(
            "differs from the embedding",
            "config.json says tie_word_embeddings, that the two are one",
            "set tie_word_embeddings to false in config.json if the head is meant",
        )


def _check(
    stored: Mapping[str, Stored], name: str, shape: tuple[int, ...], fp8: bool
) -> None:
    """Checks one tensor's shape and dtype, and that its scale is there."""
    tensor = stored[name]
    if tensor.shape != shape:
        raise tensor.wrong(
            f"has shape {list(tensor.shape)}, expected {list(shape)}",
            "config.json's sizes ask for the latter",
            "use the config.json that was released with these weights",
        )
    if tensor.dtype not in DTYPES or (tensor.dtype == "F8_E4M3" and not fp8):
        raise tensor.wrong(
            f"has dtype {tensor.dtype}",
            "weights are BF16, F16 or F32; matrices of layers may also be F8_E4M3",
            "use the released weights",
        )
    if tensor.dtype != "F8_E4M3":
        return
    scale = stored.get(name + SCALE)
    if scale is None:
        raise tensor.wrong(
            f"is fp8 without {name}{SCALE}", "fp8 values mean nothing without scales"
        )
    blocks = tuple(-(-size // BLOCK) for size in shape)
    if (scale.shape, scale.dtype) != (blocks, "F32"):
        raise scale.wrong(
            f"is {scale.dtype} {list(scale.shape)}, expected F32 {list(blocks)}",
            f"a weight of {list(shape)} has one scale for each {BLOCK} x {BLOCK} block",
        )


def _check_scales(stored: Mapping[str, Stored]) -> None:
    for name in stored:
        weight = stored.get(name.removesuffix(SCALE))
        if name.endswith(SCALE) and (weight is None or weight.dtype != "F8_E4M3"):
            raise stored[name].wrong(
                "is a scale, but its weight is not fp8", "nothing would be scaled by it"
            )


def load_params(
    directory: str | Path, dtype: Any, *, mtp: bool = False
) -> tuple[ModelConfig, PyTree]:
    """Reads a directory's config and parameters into memory, without conversion.

    Raises:
      CheckpointError: As said in `HfCheckpoint` and `r1jax.weights.direct.load`.
      ConfigError: config.json asks for another model.
    """
    source = HfCheckpoint(directory)
    return source.config, source.params(dtype, mtp=mtp)
