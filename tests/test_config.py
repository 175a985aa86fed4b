"""A config is right or refused: nothing is guessed and nothing is ignored."""

import dataclasses

import pytest

from r1jax.config import GqaConfig, Llama3Scaling, ModelConfig, MoeConfig, Yarn
from r1jax.config_hf import from_hf, yarn_magnitude
from r1jax.errors import ConfigError
from r1jax.presets import preset

LLAMA = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 1024,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "max_position_embeddings": 1024,
    "num_nextn_predict_layers": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
YARN = {
    "factor": 16,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@pytest.fixture
def fields(tiny):
    """A preset's nested mapping, to be broken."""
    return tiny("r1").to_dict()


def refusal(fields) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(fields)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def refusal_of_hf(fields) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        from_hf(fields)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("room", "wrong", "near"),
    [
        ((), "layer", "layers"),
        (("attention",), "kv_ranks", "kv_rank"),
        (("attention", "rope"), "tetha", "theta"),
        (("attention", "rope", "scaling"), "factors", "factor"),
        (("moe",), "expert", "experts"),
    ],
)
def test_an_unknown_field_is_refused_and_the_nearest_offered(fields, room, wrong, near):
    inner = fields
    for name in room:
        inner = inner[name]
    inner[wrong] = 1
    error = refusal(fields)
    assert repr(wrong) in error.what
    assert repr(near) in error.fix


@pytest.mark.parametrize("name", ["width", "bos_id", "tied_head"])
def test_a_missing_field_is_named(fields, name):
    del fields[name]
    assert name in refusal(fields).what


def test_missing_sizes_are_all_named_at_once(fields):
    del fields["moe"]["experts"], fields["moe"]["expert_width"]
    what = refusal(fields).what
    assert "experts" in what
    assert "expert_width" in what


def test_an_unknown_family_is_refused_with_the_known_ones(fields):
    fields["family"] = "gpt2"
    assert "deepseek_v3" in refusal(fields).why


def test_query_heads_must_divide_among_key_heads(tiny):
    with pytest.raises(ConfigError, match=r"6 query heads .* 4 key heads"):
        dataclasses.replace(tiny("qwen2").attention, heads=6, kv_heads=4)


def test_experts_must_divide_into_groups(tiny):
    with pytest.raises(ConfigError, match=r"16 experts .* 3 groups"):
        dataclasses.replace(tiny("r1").moe, expert_groups=3)


def test_the_group_limit_must_leave_enough_experts(tiny):
    with pytest.raises(ConfigError, match="8 experts a token, but only 4 allowed"):
        dataclasses.replace(tiny("r1").moe, experts_per_token=8, groups_per_token=1)


def test_layers_are_dense_or_have_experts(tiny):
    with pytest.raises(ConfigError, match="1 of 3 layers are dense"):
        dataclasses.replace(tiny("r1"), moe=None)
    with pytest.raises(ConfigError, match="2 of 2 layers are dense"):
        dataclasses.replace(tiny("llama"), moe=tiny("r1").moe)


def test_configs_are_frozen(tiny):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny("r1").width = 128


def test_hf_fields_give_the_tiny_models(tiny):
    scaling = {"type": "yarn", **YARN}
    assert from_hf({**DEEPSEEK, "rope_scaling": scaling}) == tiny("r1")


@pytest.mark.parametrize(
    "released",
    [
        LLAMA,
        {**LLAMA, "rope_scaling": LLAMA3},
        {**DEEPSEEK, "rope_scaling": {"type": "yarn", **YARN}},
    ],
    ids=["plain", "llama3", "yarn"],
)
def test_the_style_of_transformers_5_reads_the_same(released):
    newer = {k: v for k, v in released.items() if not k.startswith("rope_")}
    scaling = dict(released.get("rope_scaling", {}))
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    newer["rope_parameters"] = {
        **scaling,
        "rope_type": kind,
        "rope_theta": released["rope_theta"],
    }
    newer["dtype"] = "bfloat16"
    if released["model_type"] == "deepseek_v3":
        newer |= {"head_dim": 8, "rope_interleave": True}
    assert from_hf(newer) == from_hf({**released, "torch_dtype": "bfloat16"})


def test_rope_scaling_is_told_by_its_kind():
    scaled = from_hf({**LLAMA, "rope_scaling": LLAMA3}).attention.rope.scaling
    assert scaled == Llama3Scaling(8.0, 1.0, 4.0, 128)
    assert from_hf({**LLAMA, "rope_scaling": None}).attention.rope.scaling is None


@pytest.mark.parametrize(
    ("keys", "amplitude", "softmax_mscale"),
    [
        ({}, yarn_magnitude(16), 0.0),
        ({"attention_factor": 1.5}, 1.5, 0.0),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, 1.277258872 / 1.138629436, 0.5),
        ({"attn_factor": 0.5}, yarn_magnitude(16) / 2, 0.0),
    ],
)
def test_yarn_resolves_its_amplitude(keys, amplitude, softmax_mscale):
    bare = {"factor": 16, "original_max_position_embeddings": 64, "rope_type": "yarn"}
    yarn = from_hf({**LLAMA, "rope_scaling": {**bare, **keys}}).attention.rope.scaling
    assert isinstance(yarn, Yarn)
    assert yarn.amplitude == pytest.approx(amplitude, abs=1e-9)
    assert yarn.softmax_mscale == softmax_mscale


def test_r1_0528_qwen3_leaves_cos_and_sin_alone():
    assert preset("r1-0528-qwen3-8b").attention.rope.scaling.amplitude == 1.0


def test_head_dim_is_the_quotient_unless_stated():
    assert from_hf(LLAMA).attention.head_dim == 16
    assert from_hf({**LLAMA, "head_dim": 32}).attention.head_dim == 32
    assert from_hf({**LLAMA, "head_dim": None}).attention.head_dim == 16


@pytest.mark.parametrize(
    ("eos", "ids"), [(1, (1,)), ([1, 2, 3], (1, 2, 3)), (None, ()), (0, (0,))]
)
def test_any_number_of_end_tokens(eos, ids):
    assert from_hf({**LLAMA, "eos_token_id": eos}).eos_ids == ids


def test_families_bring_their_biases_and_norms():
    def of(family) -> GqaConfig:
        return from_hf({**LLAMA, "model_type": family}).attention

    assert (of("llama").qkv_bias, of("llama").qk_norm) == (False, False)
    assert (of("qwen2").qkv_bias, of("qwen2").qk_norm) == (True, False)
    assert (of("qwen3").qkv_bias, of("qwen3").qk_norm) == (False, True)


def test_queries_without_a_latent():
    assert from_hf({**DEEPSEEK, "q_lora_rank": None}).attention.q_rank is None


def test_a_deepseek_of_dense_layers_has_no_experts():
    config = from_hf({**DEEPSEEK, "first_k_dense_replace": 9})
    assert config.moe is None
    assert config.dense_layers == 3


def test_experts_are_read():
    expected = MoeConfig(
        experts=16,
        experts_per_token=4,
        expert_width=32,
        shared_experts=1,
        expert_groups=4,
        groups_per_token=2,
        routed_scale=2.5,
        normalize=False,
    )
    assert from_hf({**DEEPSEEK, "norm_topk_prob": False}).moe == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("scoring_func", "softmax"),
        ("topk_method", "greedy"),
        ("moe_layer_freq", 2),
        ("rope_interleave", False),
        ("model_type", "mixtral"),
    ],
)
def test_fields_that_ask_for_other_mathematics_are_refused(name, value):
    error = refusal_of_hf({**DEEPSEEK, name: value})
    assert name in error.what
    assert repr(value) in error.what


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps", "vocab_size"])
def test_a_missing_hf_field_is_named(name):
    fields = {k: v for k, v in LLAMA.items() if k != name}
    assert name in refusal_of_hf(fields).what


def test_an_unknown_rope_scaling_is_refused():
    scaling = {"rope_type": "longrope", "factor": 2.0}
    assert "'longrope'" in refusal_of_hf({**LLAMA, "rope_scaling": scaling}).what


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", "wide"), ("vocab_size", None), ("rope_scaling", "yarn")],
)
def test_a_value_of_the_wrong_kind_is_no_traceback(name, value):
    assert "wrong kind" in refusal_of_hf({**LLAMA, name: value}).what
