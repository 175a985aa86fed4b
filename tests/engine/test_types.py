"""Values that no sampler or engine can use are refused, with their name."""

import pytest

from r1jax.engine.types import (
    MAX_SEED,
    EngineOptions,
    SamplingParams,
    check_rules,
    check_tokens,
)
from r1jax.errors import ConfigError, RequestError
from r1jax.presets import preset


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 2.1, float("nan"), "1", None, True]),
        ("top_p", [0.0, 1.1, float("nan"), None]),
        ("top_k", [-1, 1.5, 2**31, None]),
        ("min_p", [-0.1, 1.1]),
        ("presence_penalty", [-2.1, 2.1]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("repetition_penalty", [0.0, -1.0, 10.5, float("inf")]),
        ("seed", [-(2**63) - 1, 2**63, 1.0]),
        ("max_tokens", [0, -1, 1.5]),
        ("logprobs", [-1, 21, True]),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(RequestError, match=name):
            SamplingParams(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    SamplingParams(2.0, 1.0, 2**31 - 1, 1.0, 2.0, 2.0, 10.0, MAX_SEED, 1, logprobs=20)
    SamplingParams(0, 1e-6, 0, 0, -2, -2, 1e-6, -MAX_SEED - 1, 2**31 - 1, logprobs=0)


def test_the_defaults_are_r1s_recommendation():
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.95, 0)


@pytest.mark.parametrize(
    "name", ["max_model_len", "max_num_seqs", "max_num_batched_tokens", "page_size"]
)
def test_an_engine_of_size_zero_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        EngineOptions(**({"max_model_len": 8} | {name: 0}))


def test_a_prompt_is_tokens_that_the_model_knows():
    config = preset("tiny-qwen2")
    check_tokens(config, [0, config.vocab_size - 1])
    with pytest.raises(RequestError, match="empty"):
        check_tokens(config, [])
    with pytest.raises(RequestError, match="-1"):
        check_tokens(config, [3, -1])
    with pytest.raises(RequestError, match=str(config.vocab_size)):
        check_tokens(config, [3, config.vocab_size])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens is 4 and max_tokens 3"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"priority": 0.5}, "priority"),
        ({"logit_bias": {3: 1.0}}, "entry 3"),
        ({"logit_bias": ((3, "1"),)}, "token 3 is '1'"),
        ({"logit_bias": ((3, 100.5),)}, "token 3 is 100.5"),
        ({"logit_bias": ((3, float("nan")),)}, "token 3 is nan"),
        ({"logit_bias": ((3, 1.0),) * 1025}, "1025 entries"),
        ({"allowed_token_ids": ()}, "allowed_token_ids is empty"),
        ({"bad_words": ((1,), ())}, "no tokens"),
    ],
)
def test_rules_that_make_no_sense_are_refused_with_their_numbers(values, words):
    with pytest.raises(RequestError, match=words):
        SamplingParams(**values)


def test_no_tokens_may_be_asked_for_where_the_prompt_is_judged():
    with pytest.raises(RequestError, match="neither an answer nor a judgement"):
        SamplingParams(max_tokens=0)
    assert SamplingParams(max_tokens=0, prompt_logprobs=0).max_tokens == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"logit_bias": ((5, 1.0), (10**6, 1.0))},
        {"allowed_token_ids": (5, -1)},
        {"allowed_token_ids": (5, "a")},
        {"bad_words": ((5,), (6, 10**6))},
    ],
)
def test_rules_are_about_tokens_that_the_model_knows(rule):
    [name] = rule
    with pytest.raises(RequestError, match=rf"token id (-1|1000000|'a') in {name}"):
        check_rules(preset("tiny-qwen2"), SamplingParams(**rule))
