"""One door, on one device or a mesh."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

import r1jax
from golden_files import ROOT, golden
from r1jax import sharding
from r1jax.errors import CheckpointError, ConfigError, ShardingError
from r1jax.presets import preset
from r1jax.weights import open_source

GREEDY = r1jax.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
SIZES = dict(max_model_len=256, max_num_seqs=2, max_num_batched_tokens=64, page_size=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy", "mesh"),
    [
        ("qwen3", None, None),
        ("qwen3", "throughput", (2, 2)),
        ("qwen3", "latency", (1, 2)),
        ("deepseek_plain", None, None),
        ("deepseek_plain", "throughput", (2, 2)),
        ("deepseek_plain", "latency", (2, 2)),
        ("deepseek_plain", "throughput", (4, 1)),
        ("deepseek_plain", "throughput", (1, 4)),
        ("deepseek_yarn", "throughput", (2, 4)),
        ("deepseek_yarn", "latency", (1, 4)),
        ("llama", "throughput", (4, 2)),
    ],
)
def test_a_checkpoint_answers_on_any_mesh_as_transformers_does(name, strategy, mesh):
    devices = mesh and sharding.make_mesh(*mesh)
    llm = r1jax.load(ROOT / name, mesh=devices, strategy=strategy, **SIZES)
    kernel = llm.params["dense_layers"]["attention"]["o"]["kernel"]
    assert len(kernel.devices()) == (mesh[0] * mesh[1] if mesh else 1)
    wanted = golden(name)
    prompts = [prompt.tolist() for prompt in wanted.prompts]
    answers = llm.generate(prompts, GREEDY)
    again = llm.generate(prompts, GREEDY)
    hits = llm.engine.stats().prefix_hits
    llm.close()
    assert hits == sum((len(prompt) - 1) // 16 * 16 for prompt in prompts)
    rights = wanted.continuations
    for answer, same, right in zip(answers, again, rights, strict=False):
        assert list(answer.token_ids) == list(same.token_ids) == right[:6]


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ConfigError, match="strategy is 'training'"):
        r1jax.load(ROOT / "qwen3", strategy="training", **SIZES)


def test_a_strategy_for_one_device_is_refused():
    with pytest.raises(ConfigError, match="without a mesh"):
        r1jax.load(ROOT / "qwen3", strategy="latency", **SIZES)


def test_a_mesh_that_heads_do_not_divide_is_refused():
    with pytest.raises(ShardingError, match="over 8 devices"):
        r1jax.load(ROOT / "qwen3", mesh=sharding.make_mesh(1, 8), **SIZES)


MOE = "deepseek_plain"


@pytest.fixture
def counted(tmp_path):
    """The loads of two prompts, counted on one device."""
    llm = r1jax.load(ROOT / MOE, **SIZES)
    loads = llm.count_routes([prompt.tolist() for prompt in golden(MOE).prompts[:2]])
    r1jax.save_expert_loads(tmp_path / "loads.json", llm.config, loads)
    return llm, tmp_path / "loads.json", loads


@pytest.mark.slow
def test_experts_placed_by_their_loads_answer_as_transformers_does(counted):
    alone, file, loads = counted
    llm = r1jax.load(
        ROOT / MOE,
        mesh=sharding.make_mesh(1, 4),
        redundant_experts=3,
        expert_loads=file,
        **SIZES,
    )
    down = llm._arranged["moe_layers"]["moe"]["experts"]["down"]
    assert down.shape[1] == 20  # five on each device
    assert len(down.devices()) == 4
    wanted = golden(MOE)
    prompts = [prompt.tolist() for prompt in wanted.prompts[:2]]
    np.testing.assert_array_equal(llm.count_routes(prompts), loads)
    answers = llm.generate(prompts, GREEDY)
    llm.close()
    for answer, right in zip(answers, wanted.continuations, strict=False):
        assert list(answer.token_ids) == right[:6]
    jax.tree.map(np.testing.assert_array_equal, llm.params, alone.params)


def test_copies_are_refused_where_they_are_of_no_use():
    with pytest.raises(ConfigError, match="2 redundant experts") as caught:
        r1jax.load(ROOT / MOE, redundant_experts=2, **SIZES)
    assert "one device holds all" in caught.value.why
    with pytest.raises(CheckpointError, match="no_file is no file"):
        r1jax.load(ROOT / MOE, expert_loads="no_file", **SIZES)


@pytest.mark.slow
def test_devices_that_do_not_divide_the_experts_give_the_same_logits(monkeypatch):
    """Six experts on four devices."""
    moe = dataclasses.replace(
        preset("tiny-r1").moe, experts=6, expert_groups=2, experts_per_token=2
    )
    six = dataclasses.replace(preset("tiny-r1"), moe=moe)
    monkeypatch.setattr(sys.modules["r1jax.load"], "preset", lambda name: six)
    alone = r1jax.load("tiny-r1", **SIZES)
    cut = r1jax.load("tiny-r1", mesh=sharding.make_mesh(1, 4), **SIZES)
    assert cut._arranged["moe_layers"]["moe"]["slots"].shape == (2, 6, 2)
    wanted = alone.logits(range(50))
    got = cut.logits(range(50))
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())


MTP = "deepseek_fp8_mtp"


def test_the_prediction_layer_is_read_where_it_is_to_guess():
    llm = r1jax.load(ROOT / MTP, draft="mtp", **SIZES)
    assert llm.options.num_draft_tokens == 1
    read = open_source(ROOT / MTP).params("float32", mtp=True)
    jax.tree.map(np.testing.assert_array_equal, llm.params, read)
    assert "mtp" not in r1jax.load(ROOT / MTP, draft="ngram", **SIZES).params


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [None, (2, 2), (1, 4)], ids=str)
def test_guesses_of_the_prediction_layer_do_not_change_answers(mesh):
    on = None if mesh is None else sharding.make_mesh(*mesh)
    llm = r1jax.load(ROOT / MTP, draft="mtp", mesh=on, **SIZES)
    wanted = golden(MTP)
    answers = llm.generate([p.tolist() for p in wanted.prompts[:2]], GREEDY)
    stats = llm.engine.stats()
    llm.close()
    for answer, right in zip(answers, wanted.continuations, strict=False):
        assert list(answer.token_ids) == right[:6]
    assert stats.drafted > 0


def test_guesses_that_cannot_be_made_are_refused():
    with pytest.raises(ConfigError, match="draft is 'mtp' for a model without"):
        r1jax.load(ROOT / "qwen3", draft="mtp", **SIZES)
    with pytest.raises(ConfigError, match="draft is 'eagle'"):
        r1jax.load(ROOT / "qwen3", draft="eagle", **SIZES)
    with pytest.raises(ConfigError, match="num_draft_tokens is 2 while draft is None"):
        r1jax.load(ROOT / "qwen3", num_draft_tokens=2, **SIZES)
    with pytest.raises(ConfigError, match="prompt_lookup_max is 3 while draft"):
        r1jax.load(ROOT / MTP, draft="mtp", prompt_lookup_max=3, **SIZES)
    with pytest.raises(ConfigError, match="num_draft_tokens is 0"):
        r1jax.load(ROOT / "qwen3", draft="ngram", num_draft_tokens=0, **SIZES)


@pytest.mark.parametrize(
    ("given", "sizes"), [({}, (2, 4)), ({"max": 1}, (1, 1)), ({"min": 6}, (6, 6))]
)
def test_lookups_have_sizes_that_fit_each_other(given, sizes):
    named = {f"prompt_lookup_{name}": value for name, value in given.items()}
    options = r1jax.load(ROOT / "qwen3", draft="ngram", **named, **SIZES).options
    assert (options.prompt_lookup_min, options.prompt_lookup_max) == sizes
    assert options.num_draft_tokens == 3
