"""A policy that samples from itself, is rewarded, and changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError
from r1jax.llm import LLM
from r1jax.train import forward, grpo, lora
from r1jax.train.objective import Objective
from r1jax.train.rollout import Prompt, arrange, sample, tempered

PROMPTS = [Prompt(i, tuple(range(2 + i, 20 + i))) for i in range(2)]
SMALL = dict(group=4, prompts=2, max_tokens=8, widths=(24, 32), tokens_at_once=96)


def share_of_low_ids(task, completion):
    low = sum(token < 256 for token in completion.tokens)
    return {"reward": low / len(completion.tokens)}


@pytest.fixture(scope="module")
def llm(tiny, tiny_params):
    options = EngineOptions(64, 4, 16, page_size=8, num_pages=80)
    params = tiny_params("qwen2")
    llm = LLM("toy", tiny("qwen2"), params, None, options, SamplingParams())
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def score(tiny):
    config = tiny("qwen2")
    return jax.jit(
        lambda params, packed: forward.score(config, params, packed).logprobs
    )


def rollouts(llm, seed=0):
    return sample(llm, PROMPTS, share_of_low_ids, group=4, max_tokens=8, seed=seed)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_and_training_agree_on_log_probabilities(
    llm, score, tiny_params, temperature
):
    params = tempered(tiny_params("qwen2"), temperature)
    llm.bind(params)
    done = [j.completion for group in rollouts(llm) for j in group]
    none = np.zeros(len(done), np.float32)
    chunks = arrange(done, none, none, SMALL["widths"], 96)
    assert {rows.packed.tokens.shape for rows in chunks} <= {(4, 24), (3, 32)}
    seen = 0
    for rows in chunks:
        apart = (score(params, rows.packed) - rows.old) * rows.packed.weights
        assert jnp.abs(apart).max() < 1e-3
        seen += int(rows.packed.weights.sum())
    assert seen == sum(len(c.tokens) for c in done)


def test_ratios_are_one_at_the_first_update_and_groups_share_prefixes(
    llm, score, tiny_params
):
    learner = grpo.Learner(score, optax.sgd(1e-2), Objective(epsilon=0.2))
    policy = grpo.Policy.begin(tiny_params("qwen2"), optax.sgd(1e-2))
    settings = grpo.Settings(**SMALL, minibatches=1, refresh=2)
    before = llm.engine.stats().prefix_hits
    steps = grpo.train(
        llm, policy, learner, lambda _: PROMPTS, share_of_low_ids, settings, 2
    )
    first = next(steps)
    assert llm.engine.stats().prefix_hits >= before + 2 * 3 * 16
    assert first["largest_mismatch"] < 1e-3
    assert abs(first["kl"]) < 1e-5
    assert first["clipped"] == 0
    assert first["slope"] > 0
    last = list(steps)[-1]
    assert last["step"] == policy.step == 2
    embedding = policy.params["embed"]["embedding"]
    assert not jnp.array_equal(embedding, tiny_params("qwen2")["embed"]["embedding"])
    assert jnp.array_equal(embedding, policy.reference["embed"]["embedding"])  # renewed
    assert jnp.array_equal(embedding, llm.params["embed"]["embedding"])


@pytest.mark.slow
def test_adapters_learn_and_the_engine_has_them_merged(llm, score, tiny_params):
    choice, base = lora.Lora(2, 4.0, ("q", "down")), tiny_params("qwen2")

    def whole(params, base):
        return lora.merge(base, params, choice)

    tools = optax.sgd(1.0)
    learner = grpo.Learner(score, tools, Objective(epsilon=0.2), whole=whole)
    adapters = lora.init(base, choice, jax.random.key(0))
    policy = grpo.Policy.begin(adapters, tools, base)
    settings = grpo.Settings(**SMALL, minibatches=1)
    [numbers] = grpo.train(
        llm, policy, learner, lambda _: PROMPTS, share_of_low_ids, settings, 1
    )
    assert numbers["largest_mismatch"] < 1e-3
    assert policy.params.keys() == adapters.keys()
    assert all(jnp.abs(pair["b"]).max() > 0 for pair in policy.params.values())
    for found, wanted in zip(
        jax.tree.leaves(llm.params),
        jax.tree.leaves(whole(policy.params, base)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_equal_rewards_change_nothing(llm, score, tiny_params):
    learner = grpo.Learner(score, optax.sgd(1.0), Objective())
    policy = grpo.Policy.begin(tiny_params("qwen2"), optax.sgd(1.0))
    settings = grpo.Settings(**SMALL)
    [numbers] = grpo.train(
        llm, policy, learner, lambda _: PROMPTS, lambda *_: {"reward": 1.0}, settings, 1
    )
    assert numbers["useful_groups"] == 0
    assert jnp.array_equal(
        policy.params["lm_head"]["kernel"], tiny_params("qwen2")["lm_head"]["kernel"]
    )


def test_a_seed_decides_the_answers(llm, tiny_params):
    llm.bind(tiny_params("qwen2"))
    one, same, other = (
        [j.completion.tokens for group in rollouts(llm, seed) for j in group]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_judge_that_fails_leaves_nothing_running(llm, tiny_params):
    with pytest.raises(ZeroDivisionError):
        sample(llm, PROMPTS, lambda *_: 1 / 0, group=4, max_tokens=8, seed=0)
    for _ in range(500):
        if llm.engine.stats().running + llm.engine.stats().waiting == 0:
            break
    assert len(rollouts(llm)) == 2


def test_answers_longer_than_the_widest_row_are_refused(llm):
    done = [j.completion for group in rollouts(llm) for j in group]
    none = np.zeros(len(done), np.float32)
    with pytest.raises(ConfigError, match="widest rows of an update have 20"):
        arrange(done, none, none, (20,), 96)


@pytest.mark.slow
def test_what_is_rewarded_is_done_more_often(llm, score, tiny_params):
    optimizer = optax.adam(optax.linear_schedule(0, 3e-3, 5))
    learner = grpo.Learner(score, optimizer, Objective(epsilon=0.2))
    policy = grpo.Policy.begin(tiny_params("qwen2"), optimizer)
    settings = grpo.Settings(**SMALL | {"group": 16}, minibatches=2)
    rewards = [
        numbers["reward"]
        for numbers in grpo.train(
            llm, policy, learner, lambda _: PROMPTS, share_of_low_ids, settings, 40
        )
    ]
    before, after = np.mean(rewards[:5]), np.mean(rewards[-5:])
    assert after > before + 0.2, (before, after)
