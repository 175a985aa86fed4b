"""The table is total, both ways, for every release; nothing is allocated."""

import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r1jax.config_hf import from_hf
from r1jax.errors import CheckpointError, ConfigError
from r1jax.weights import names

# The fields of each release's config.json that decide shapes.
_ANY = {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 4096}
_R1 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}


def _dense(family, vocab, width, layers, heads, kv_heads, hidden):
    return {
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "intermediate_size": hidden,
    }


CONFIGS = {
    "DeepSeek-R1": _R1,
    "R1-Distill-Qwen-1.5B": _dense("qwen2", 151936, 1536, 28, 12, 2, 8960),
    "R1-Distill-Qwen-7B": _dense("qwen2", 152064, 3584, 28, 28, 4, 18944),
    "R1-Distill-Qwen-14B": _dense("qwen2", 152064, 5120, 48, 40, 8, 13824),
    "R1-Distill-Qwen-32B": _dense("qwen2", 152064, 5120, 64, 40, 8, 27648),
    "R1-Distill-Llama-8B": _dense("llama", 128256, 4096, 32, 32, 8, 14336),
    "R1-Distill-Llama-70B": _dense("llama", 128256, 8192, 80, 64, 8, 28672),
    "R1-0528-Qwen3-8B": _dense("qwen3", 151936, 4096, 36, 32, 8, 12288),
}
# The released checkpoints: how many tensors, and the SHA-256 of their sorted lines
# "NAME [SHAPE]\n", taken from the real files' headers.
DIGESTS = {
    "DeepSeek-R1": (
        91991,
        "3c2f34301d23deebef58120c04d6f69fb689a1452138cae5bb2ee86bd4b4b8f8",
    ),
    "R1-Distill-Qwen-1.5B": (
        339,
        "4a2229b5be20e50e4e4b686da13dedbe131d14de2d0e128ecaa0e8c8b249ea3d",
    ),
    "R1-Distill-Qwen-7B": (
        339,
        "b676b8bbe9a50f5a69dd98b6509919d3efb8f1dceb4b9bf2b53d1f29c93c28ea",
    ),
    "R1-Distill-Qwen-14B": (
        579,
        "0c8b4be95e62ea56b852cd48be89b11454d3ab25bde71e321f43b2ac40819628",
    ),
    "R1-Distill-Qwen-32B": (
        771,
        "88925c814708c4c58f86062080e01f4dca4f54e2883827480bd4128b2c28f85d",
    ),
    "R1-Distill-Llama-8B": (
        291,
        "f12561b8007455875621dd266ca5e18156c9cb9c5c4434f1fa977d4be78e1137",
    ),
    "R1-Distill-Llama-70B": (
        723,
        "0ecabcde5e9dcc5e0aec46e63a093d2c180a5ce6a039ad878810a2b08e5b58cf",
    ),
    "R1-0528-Qwen3-8B": (
        399,
        "a86a425f4d7929b4155b8389df8435afbdfc7bd1c92ea58d8b616ef0e06e1ed1",
    ),
}


def table_of(release: str) -> names.Table:
    config = from_hf(_ANY | CONFIGS[release])
    return names.table(config, names.hf_layout(config))


def tensors_of(table: names.Table) -> dict[str, list[int]]:
    """Every tensor's shape, with the scales of those that R1 stores as fp8."""
    shapes = {name: list(shape) for name, shape in table.shapes.items()}
    if "model.layers.0.self_attn.kv_b_proj.weight" in shapes:
        for name in table.shapes:
            if table.may_be_fp8(name):
                blocks = [-(-size // 128) for size in shapes[name]]
                shapes[f"{name}_scale_inv"] = blocks
    return shapes


@pytest.mark.parametrize("release", CONFIGS)
def test_the_table_names_exactly_the_tensors_of_the_release(release):
    shapes = tensors_of(table_of(release))
    lines = sorted(f"{name} {shape}\n" for name, shape in shapes.items())
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (len(shapes), digest) == DIGESTS[release]


@pytest.mark.skipif(
    "R1JAX_REFERENCE" not in os.environ, reason="R1JAX_REFERENCE names no directory"
)
@pytest.mark.parametrize("release", CONFIGS)
def test_the_table_equals_the_headers_of_the_release(release):
    folder = Path(os.environ["R1JAX_REFERENCE"])
    if release == "DeepSeek-R1":
        packed = gzip.decompress((folder / "r1_params_map.json.gz").read_bytes())
        listed = {name: entry["shape"] for name, entry in json.loads(packed).items()}
    else:
        path = folder / "configs" / release / "tensors.json"
        listed = json.loads(path.read_text())
    assert tensors_of(table_of(release)) == listed


@pytest.mark.parametrize("release", CONFIGS)
def test_every_place_of_every_leaf_has_one_source(release):
    table = table_of(release)
    config = from_hf(_ANY | CONFIGS[release])
    leaves = names.arrays(config, "bfloat16")
    assert table.by_leaf.keys() == leaves.keys()
    for path, leaf in leaves.items():
        pieces = table.by_leaf[path]
        stacked = leaf.shape[: len(pieces[0].index)]
        places = {(p.index, tuple(a.place for a in p.turn.leaf)) for p in pieces}
        parts = len(places) // int(np.prod(stacked))
        assert len(places) == len(pieces) == parts * np.prod(stacked)
        assert {index for index, _ in places} == set(np.ndindex(stacked))
        covered = sum(np.prod(p.turn.leaf_shape) for p in pieces)
        assert covered == np.prod(leaf.shape)


def test_a_leaf_without_a_source_stops_with_its_name():
    config = from_hf(_ANY | CONFIGS["R1-Distill-Qwen-1.5B"])
    layout = names.hf_layout(config)
    rows = layout.groups["dense_layers"]
    less = tuple(row for row in rows if row.source != "mlp.up_proj.weight")
    with pytest.raises(CheckpointError, match="dense_layers/mlp/gate_up/kernel"):
        names.table(config, replace(layout, groups={"dense_layers": less}))


def test_queries_without_a_latent_and_tied_heads_have_their_own_rows():
    config = from_hf(_ANY | _R1 | {"q_lora_rank": None, "tie_word_embeddings": True})
    shapes = names.table(config, names.hf_layout(config)).shapes
    assert shapes["model.layers.5.self_attn.q_proj.weight"] == (128 * 192, 7168)
    assert "model.layers.5.self_attn.q_a_proj.weight" not in shapes
    assert "lm_head.weight" not in shapes


def test_mtp_layers_lie_behind_the_last_layer_and_go_to_mtp():
    table = table_of("DeepSeek-R1")
    piece, *more = table.by_source["model.layers.61.mlp.experts.203.up_proj.weight"]
    assert "/".join(piece.path) == "mtp/block/moe/experts/gate_up"
    assert piece.index == (0, 203)
    assert not more


def test_a_size_of_nothing_is_refused():
    config = from_hf(_ANY | _R1 | {"moe_intermediate_size": 0})
    with pytest.raises(ConfigError, match="FE"):
        names.table(config, names.hf_layout(config))
