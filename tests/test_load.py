"""One door, on one device or a mesh."""

import pytest

import r1jax
from golden_files import ROOT, golden
from r1jax import sharding
from r1jax.errors import ConfigError, ShardingError

GREEDY = r1jax.SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
SIZES = dict(max_model_len=128, max_num_seqs=2, max_num_batched_tokens=64, page_size=16)


@pytest.mark.parametrize("name", ["qwen3", "deepseek_plain"])
@pytest.mark.parametrize("devices", [None, 2], ids=["alone", "on two devices"])
def test_a_checkpoint_answers_on_any_mesh_as_transformers_does(name, devices):
    mesh = devices and sharding.make_mesh(1, devices)
    llm = r1jax.load(ROOT / name, mesh=mesh, **SIZES)
    kernel = llm.params["dense_layers"]["attention"]["o"]["kernel"]
    assert len(kernel.devices()) == (devices or 1)
    wanted = golden(name)
    prompts = [prompt.tolist() for prompt in wanted.prompts[:2]]
    answers = llm.generate(prompts, GREEDY)
    llm.close()
    for answer, right in zip(answers, wanted.continuations, strict=False):
        assert list(answer.token_ids) == right[:6]


def test_a_mesh_that_cuts_sequences_is_refused():
    with pytest.raises(ConfigError, match="cuts sequences over 2 devices"):
        r1jax.load(ROOT / "qwen3", mesh=sharding.make_mesh(2, 2), **SIZES)


def test_a_mesh_that_heads_do_not_divide_is_refused():
    with pytest.raises(ShardingError, match="over 8 devices"):
        r1jax.load(ROOT / "qwen3", mesh=sharding.make_mesh(1, 8), **SIZES)
