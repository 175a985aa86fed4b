"""Reads the golden data under `tests/goldens`; `tools/make_goldens.py` wrote it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent / "goldens"

GOLDENS = (
    "deepseek_yarn",
    "deepseek_plain",
    "deepseek_no_qlora",
    "deepseek_fp8_mtp",
    "qwen2",
    "qwen2_tied",
    "llama",
    "qwen3",
)


@dataclass(frozen=True)
class Golden:
    """A tiny model and transformers' answers to three prompts.

    Attributes:
      directory: A Hugging Face model directory (config.json, safetensors).
      prompts: Token ids, int32 [T], of 7, 64 and 200 tokens.
      logits: Of every position of each prompt, float32 [T, V].
      continuations: 32 greedy tokens after each prompt.
      mtp_logits: Of the multi-token-prediction layer, float32 [T - 1, V], for the
        first two prompts; row i predicts token i + 2. Empty without such a layer.
    """

    directory: Path
    prompts: list[np.ndarray]
    logits: list[np.ndarray]
    continuations: list[list[int]]
    mtp_logits: list[np.ndarray]


def golden(name: str) -> Golden:
    """Reads one golden of `GOLDENS`."""
    with np.load(ROOT / name / "golden.npz") as file:
        arrays = dict(file)

    def numbered(key: str) -> list[np.ndarray]:
        return [arrays[f"{key}_{i}"] for i in range(3) if f"{key}_{i}" in arrays]

    return Golden(
        directory=ROOT / name,
        prompts=numbered("prompt"),
        logits=numbered("logits"),
        continuations=[tokens.tolist() for tokens in numbered("continuation")],
        mtp_logits=numbered("mtp_logits"),
    )
