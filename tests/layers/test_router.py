"""The router's choice against a straightforward one, token by token."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax.config import MoeConfig
from r1jax.engine.steps import CPU_OPTIONS
from r1jax.layers.router import Router, route
from r1jax.presets import preset

TOY = MoeConfig(
    experts=16,
    experts_per_token=4,
    expert_width=8,
    shared_experts=1,
    expert_groups=4,
    groups_per_token=2,
    routed_scale=2.5,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def plain_route(logits, bias, c):
    """One token after the other, in float64; ties go to the lower number."""
    answers = []
    for scores in sigmoid(logits):
        choice = scores + np.asarray(bias, np.float64)
        groups = choice.reshape(c.expert_groups, -1)
        best_two = np.sort(groups, axis=1)[:, -2:].sum(axis=1)
        kept = np.argsort(-best_two, kind="stable")[: c.groups_per_token]
        members = np.arange(c.experts) // groups.shape[1]
        allowed = [e for e in range(c.experts) if members[e] in kept]
        best = sorted(allowed, key=lambda e: -choice[e])[: c.experts_per_token]
        weights = scores[best]
        if c.normalize:
            weights = weights / (weights.sum() + 1e-20)
        answers.append(dict(zip(best, weights * c.routed_scale, strict=True)))
    return answers


def routes_of(logits, bias, c, **options):
    compiled = jax.jit(lambda a, b: route(a, b, c), **options)
    chosen, weights = compiled(jnp.float32(logits), jnp.float32(bias))
    return [
        dict(zip(ids.tolist(), w.tolist(), strict=True))
        for ids, w in zip(np.asarray(chosen), np.asarray(weights), strict=True)
    ]


@pytest.mark.parametrize("options", [{}, CPU_OPTIONS], ids=["strict", "fast"])
@pytest.mark.parametrize("config", [TOY, preset("r1").moe], ids=["toy", "r1"])
def test_routes_as_the_paper_says(rng, config, options):
    logits = rng.standard_normal((50, config.experts)) * 2
    bias = rng.standard_normal(config.experts) * 0.3
    found = routes_of(logits, bias, config, compiler_options=options)
    for mine, wanted in zip(found, plain_route(logits, bias, config), strict=True):
        assert mine == pytest.approx(wanted, rel=1e-5)


def test_the_bias_takes_part_in_the_choice_only():
    logits, bias = np.zeros((1, 16)), np.zeros(16)
    bias[[1, 2, 5, 6]] = 0.9
    (weights,) = routes_of(logits, bias, TOY)
    assert weights == pytest.approx(dict.fromkeys([1, 2, 5, 6], 2.5 / 4))


def test_only_the_two_best_of_a_group_speak_for_it():
    """A group of one giant or of many middling experts loses to two good ones."""
    scores = np.full((1, 16), 0.01)
    scores[0, 0] = 0.95  # 0.96 with its second
    scores[0, [4, 5]] = 0.6  # 1.2
    scores[0, 8:12] = 0.45  # 0.9
    scores[0, [12, 13]] = 0.55  # 1.1
    (weights,) = routes_of(np.log(scores / (1 - scores)), np.zeros(16), TOY)
    assert set(weights) == {4, 5, 12, 13}


@pytest.mark.parametrize("options", [{}, CPU_OPTIONS], ids=["strict", "fast"])
def test_an_expert_of_a_dropped_group_never_beats_a_negative_score(options):
    bias = np.full(16, -3.0)
    bias[[0, 1, 4, 5]] = 5.0  # groups 0 and 1 win; their others score below zero
    config = dataclasses.replace(TOY, experts_per_token=6)
    logits = np.random.default_rng(1).standard_normal((20, 16))
    for weights in routes_of(logits, bias, config, compiler_options=options):
        assert len(weights) == 6
        assert set(weights) <= set(range(8))


def test_ties_go_to_the_lower_number():
    (weights,) = routes_of(np.zeros((1, 16)), np.zeros(16), TOY)
    assert sorted(weights) == [0, 1, 2, 3]


def test_weights_sum_to_the_scale_even_where_all_scores_vanish():
    (weights,) = routes_of(np.full((1, 16), -30.0), np.zeros(16), TOY)
    assert sum(weights.values()) == pytest.approx(2.5)
    (weights,) = routes_of(np.full((1, 16), -200.0), np.zeros(16), TOY)
    assert [*weights.values()] == [0.0] * 4  # and not NaN


def test_without_normalisation_the_scores_are_only_scaled():
    config = dataclasses.replace(TOY, normalize=False)
    (weights,) = routes_of(np.full((1, 16), 1.0), np.zeros(16), config)
    assert [*weights.values()] == pytest.approx([2.5 * sigmoid(1.0)] * 4)


def test_a_bfloat16_model_routes_in_float32(rng):
    x = rng.standard_normal((30, 64)).astype(ml_dtypes.bfloat16)
    kernel = (rng.standard_normal((64, 16)) / 8).astype(ml_dtypes.bfloat16)
    # Differences far below bfloat16's steps decide.
    bias = (rng.standard_normal(16) * 1e-4).astype(np.float32)
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    chosen, weights = Router(TOY, 64).apply({"params": params}, jnp.asarray(x))
    assert weights.dtype == jnp.float32
    logits = x.astype(np.float64) @ kernel.astype(np.float64)
    wanted = plain_route(logits, bias, TOY)
    for ids, w, want in zip(
        np.asarray(chosen), np.asarray(weights), wanted, strict=True
    ):
        mine = dict(zip(ids.tolist(), w.tolist(), strict=True))
        assert mine == pytest.approx(want, rel=1e-4)
