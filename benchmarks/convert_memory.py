"""Converts a synthetic fp8 checkpoint with R1's layout and measures memory and time.

    python benchmarks/convert_memory.py [--layers 8] [--directory /tmp]

Writes about 0.4 GB of random fp8 weights a layer, converts them to bfloat16 in a
process of its own, and prints one JSON line: that process's peak memory, the size of
the largest stacked leaf, the bound that the converter keeps (that leaf and 1 GB), and
the speed. Everything it wrote is deleted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.config_hf import from_hf
from r1jax.weights import names

SHARD_BYTES = 500_000_000
CONFIG = {
    "model_type": "deepseek_v3",
    "vocab_size": 32768,
    "hidden_size": 2048,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1024,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "rope_theta": 10000,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
# Linux's own word for the most memory held, mapped pages included. (`getrusage` would
# count what this process held when it started the other.)
_CONVERT = """
import re, sys
from r1jax.weights import convert
report = convert(*sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(report.bytes_written, report.largest_leaf, report.seconds, int(peak[1]) * 1024)
"""


def tensors(fields: dict[str, Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Makes every tensor of the checkpoint: name, safetensors dtype, values."""
    config = from_hf(fields)
    table = names.table(config, names.hf_layout(config))
    generator = np.random.default_rng(0)
    for name, shape in table.shapes.items():
        if table.may_be_fp8(name):
            # All but the sign and the two highest bits: no NaN, no zero block.
            yield name, "F8_E4M3", generator.integers(0, 64, shape, np.uint8)
            blocks = [-(-size // 128) for size in shape]
            scales = generator.uniform(1e-4, 1e-3, blocks).astype(np.float32)
            yield f"{name}_scale_inv", "F32", scales
        elif name.endswith("e_score_correction_bias"):
            yield name, "F32", generator.normal(size=shape).astype(np.float32)
        else:
            values = generator.standard_normal(shape, np.float32)
            yield name, "BF16", values.astype(ml_dtypes.bfloat16)


def write_checkpoint(directory: Path, fields: dict[str, Any]) -> int:
    """Writes the checkpoint of a config.json; returns the bytes of its tensors."""
    (directory / "config.json").write_text(json.dumps(fields))
    (directory / "tokenizer.json").write_text("{}")
    index: dict[str, str] = {}
    shard: list[tuple[str, str, np.ndarray]] = []
    total = waiting = 0

    def flush() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        write_shard(directory / name, shard)
        index.update({tensor: name for tensor, _, _ in shard})
        shard.clear()

    for tensor in tensors(fields):
        shard.append(tensor)
        total, waiting = total + tensor[2].nbytes, waiting + tensor[2].nbytes
        if waiting > SHARD_BYTES:
            flush()
            waiting = 0
    flush()
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    return total


def write_shard(path: Path, shard: list[tuple[str, str, np.ndarray]]) -> None:
    """Writes one safetensors file."""
    header, end = {}, 0
    for name, dtype, values in shard:
        start, end = end, end + values.nbytes
        header[name] = {"dtype": dtype, "shape": values.shape}
        header[name]["data_offsets"] = (start, end)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, values in shard:
            file.write(values.tobytes())


def measure(directory: Path, layers: int) -> dict[str, float]:
    """Converts the checkpoint in another process and reads the figures."""
    source, output = directory / "hf", directory / "r1jax"
    source.mkdir()
    read = write_checkpoint(source, {**CONFIG, "num_hidden_layers": layers})
    command = [sys.executable, "-c", _CONVERT, str(source), str(output)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    written, largest, seconds, peak = map(float, run.stdout.split())
    return {
        "read_bytes": read,
        "written_bytes": written,
        "largest_leaf_bytes": largest,
        "bound_bytes": largest + 1e9,
        "peak_bytes": peak,
        "within_bound": peak <= largest + 1e9,
        "seconds": round(seconds, 1),
        "read_mb_per_second": round(read / seconds / 1e6),
        "written_mb_per_second": round(written / seconds / 1e6),
    }


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--directory", help="where to write; default: the system's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures = measure(Path(directory), arguments.layers)
    sys.stdout.write(json.dumps({"benchmark": "convert_memory", **figures}) + "\n")


if __name__ == "__main__":
    main()
