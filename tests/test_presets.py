"""Every preset is the released model: field by field, parameter by parameter."""

import ast
import json
import os
from pathlib import Path

import jax
import pytest

from r1jax import parameters
from r1jax.config import ModelConfig
from r1jax.config_hf import from_hf
from r1jax.errors import ConfigError
from r1jax.presets import NAMES, preset

# The released config.json files: the fields that decide shapes or mathematics.
_R1 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "attention_bias": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_DENSE = {
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
_QWEN2 = {
    **_DENSE,
    "model_type": "qwen2",
    "vocab_size": 152064,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
}
_LLAMA = {
    **_DENSE,
    "model_type": "llama",
    "vocab_size": 128256,
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "bos_token_id": 128000,
}


def _sizes(width, layers, heads, kv_heads, mlp):
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
    }


RELEASED = {
    **dict.fromkeys(("r1", "r1-zero", "v3-base", "v3-0324", "r1-0528"), _R1),
    "distill-qwen-1.5b": {
        **_QWEN2,
        **_sizes(1536, 28, 12, 2, 8960),
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
    },
    "distill-qwen-7b": {
        **_QWEN2,
        **_sizes(3584, 28, 28, 4, 18944),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
    },
    "distill-qwen-14b": {
        **_QWEN2,
        **_sizes(5120, 48, 40, 8, 13824),
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
    },
    "distill-qwen-32b": {
        **_QWEN2,
        **_sizes(5120, 64, 40, 8, 27648),
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
    },
    "distill-llama-8b": {
        **_LLAMA,
        **_sizes(4096, 32, 32, 8, 14336),
        "eos_token_id": 128001,
    },
    "distill-llama-70b": {
        **_LLAMA,
        **_sizes(8192, 80, 64, 8, 28672),
        "head_dim": 128,
        "eos_token_id": [128001, 128008, 128009],
    },
    "r1-0528-qwen3-8b": {
        **_DENSE,
        **_sizes(4096, 36, 32, 8, 12288),
        "model_type": "qwen3",
        "vocab_size": 151936,
        "attention_bias": False,
        "use_sliding_window": False,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "attn_factor": 0.8782488562869419,
        },
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
}

# Folders of released config.json files, under the one that R1JAX_REFERENCE names.
FOLDERS = {
    "r1": "DeepSeek-R1",
    "v3-0324": "DeepSeek-V3-0324",
    "r1-0528": "DeepSeek-R1-0528",
    "distill-qwen-1.5b": "R1-Distill-Qwen-1.5B",
    "distill-qwen-7b": "R1-Distill-Qwen-7B",
    "distill-qwen-14b": "R1-Distill-Qwen-14B",
    "distill-qwen-32b": "R1-Distill-Qwen-32B",
    "distill-llama-8b": "R1-Distill-Llama-8B",
    "distill-llama-70b": "R1-Distill-Llama-70B",
    "r1-0528-qwen3-8b": "R1-0528-Qwen3-8B",
}

# Parameters of the main model, without multi-token prediction.
COUNTS = {
    "r1": 671_026_419_200,
    "distill-qwen-1.5b": 1_777_088_000,
    "distill-qwen-7b": 7_615_616_512,
    "distill-qwen-14b": 14_770_033_664,
    "distill-qwen-32b": 32_763_876_352,
    "distill-llama-8b": 8_030_261_248,
    "distill-llama-70b": 70_553_706_496,
    "r1-0528-qwen3-8b": 8_190_735_360,
    "deepseek-118m": 118_092_512,
    "nano": 2_527_024,
    "nano-ci": 255_120,
    "nano-dense": 197_184,
}

TINY = ("tiny-r1", "tiny-qwen2", "tiny-llama", "tiny-qwen3")


FILES = sorted((Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


def test_every_preset_is_released_or_made_here():
    nano = {"nano", "nano-ci", "nano-dense"}
    assert set(NAMES) == {*RELEASED, *TINY, "deepseek-118m", *nano}


@pytest.mark.parametrize("name", RELEASED)
def test_preset_equals_the_released_config(name):
    assert preset(name).to_dict() == from_hf(RELEASED[name]).to_dict()


@pytest.mark.parametrize("name", FOLDERS)
def test_preset_equals_the_released_file(name):
    reference = os.environ.get("R1JAX_REFERENCE")
    if reference is None:
        pytest.skip("R1JAX_REFERENCE names no folder of released configs")
    file = Path(reference, "configs", FOLDERS[name], "config.json")
    assert preset(name).to_dict() == from_hf(json.loads(file.read_text())).to_dict()


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_count_as_published(name):
    assert parameters.count(preset(name)) == COUNTS[name]


def test_the_mtp_layer_counts_as_stored():
    leaves = jax.tree.leaves(parameters.abstract(preset("r1"))["mtp"])
    assert sum(leaf.size for leaf in leaves) == 13_463_426_304


@pytest.mark.parametrize("name", NAMES)
def test_a_config_survives_its_own_dict(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_names_are_read_in_any_case():
    assert preset("R1-Zero") == preset("r1-zero")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("distill-qwen-1.5", "distill-qwen-1.5b"), ("r1_zero", "r1-zero")],
)
def test_a_miss_offers_the_nearest_name(wrong, near):
    with pytest.raises(ConfigError) as caught:
        preset(wrong)
    assert repr(wrong) in caught.value.what
    assert near in caught.value.fix


def test_tiny_models_have_every_switch_of_the_released_ones():
    def switches(names):
        for config in map(preset, names):
            attention = config.attention
            yield "attention", type(attention)
            yield "scaling", type(attention.rope.scaling)
            yield "interleaved", attention.rope.interleaved
            yield "bias", getattr(attention, "qkv_bias", False)
            yield "norm", getattr(attention, "qk_norm", False)
            yield "experts", config.moe is None
            yield "mtp", bool(config.mtp_layers)
            yield "group limit", config.moe and config.moe.groups_per_token > 1

    assert set(switches(RELEASED)) <= set(switches(TINY))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_preset_file_imports_only_ml_collections(file):
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    assert not any(isinstance(node, ast.Import) for node in nodes)
    assert {n.module for n in nodes if isinstance(n, ast.ImportFrom)} == {
        "ml_collections"
    }
