"""The loss of GRPO against loops that spell its formulas out."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import ConfigError
from r1jax.train.objective import Objective, advantages, loss, scales

LENGTHS = [3, 1, 5, 2]
WIDTH, LONGEST = 7, 8


def spelled_out(logprobs, old, reference, worth, starts, how):
    """The objective of arXiv 2402.03300 in plain Python."""
    high = how.epsilon if how.eps_high is None else how.eps_high
    total, count = 0.0, sum(LENGTHS)
    for i, length in enumerate(LENGTHS):
        places = range(starts[i], starts[i] + length)
        mean = sum(logprobs[i][t] - old[i][t] for t in places) / length
        for t in places:
            ratio = jnp.exp(mean if how.sequence_ratio else logprobs[i][t] - old[i][t])
            near = min(max(ratio, 1 - how.epsilon), 1 + high)
            gain = min(ratio * worth[i], near * worth[i])
            if how.beta:
                back = reference[i][t] - logprobs[i][t]
                gain -= how.beta * (jnp.exp(back) - back - 1)
            total += {
                "sequence-mean": gain / length / len(LENGTHS),
                "token-mean": gain / count,
                "constant-length": gain / LONGEST / len(LENGTHS),
            }[how.loss_agg]
    return -total


def case(rng):
    logprobs, old, reference = -rng.exponential(1.0, (3, 4, WIDTH))
    starts, mask = [1, 4, 2, 3], np.zeros((4, WIDTH))
    for row, start, length in zip(mask, starts, LENGTHS, strict=True):
        row[start : start + length] = 1
    return logprobs, old, reference, np.array([1.2, -0.7, -1.1, 0.6]), starts, mask


@pytest.mark.parametrize(
    "how",
    [
        Objective(beta=0.04),
        Objective(epsilon=0.2, beta=0.0),
        Objective(epsilon=0.2, eps_high=0.28, beta=0.1, loss_agg="token-mean"),
        Objective(epsilon=0.2, loss_agg="constant-length"),
        Objective(epsilon=0.3, sequence_ratio=True),
    ],
)
def test_gradients_equal_those_of_the_formulas_spelled_out(how, rng):
    logprobs, old, reference, worth, starts, mask = case(rng)
    scale = scales(LENGTHS, how, LONGEST)
    rows = [jnp.asarray(x, jnp.float32) for x in (old, reference, worth, mask, scale)]

    def fast(x):
        ref = rows[1] if how.beta else None
        return loss(x, rows[0], ref, *rows[2:], how)[0]

    x = jnp.asarray(logprobs, jnp.float32)
    value, slope = jax.value_and_grad(fast)(x)
    plain, wanted = jax.value_and_grad(spelled_out)(
        x, old, reference, worth, starts, how
    )
    np.testing.assert_allclose(value, plain, atol=1e-5)
    np.testing.assert_allclose(slope, wanted, atol=1e-5)
    assert jnp.abs(slope).max() > 1e-2


def test_far_ratios_stay_finite():
    x = jnp.asarray([[-300.0, -1.0]])
    ones = jnp.ones((1, 2))
    rows = -x[:, ::-1], -ones, jnp.ones(1), ones, jnp.ones(1)
    slope = jax.grad(lambda x: loss(x, *rows, Objective())[0])(x)
    assert jnp.isfinite(slope).all()


def test_an_epsilon_above_one_clips_only_large_ratios_that_are_good():
    old, ones = jnp.zeros((4, 1)), jnp.ones((4, 1))
    new = jnp.log(jnp.asarray([[10.9], [11.1], [11.1], [1e-6]]))
    worth = jnp.asarray([1.0, 1.0, -1.0, -1.0])
    how = Objective(beta=0.0)

    def of(x):
        return loss(x, old, None, worth, ones, jnp.ones(4), how)

    slope, sums = jax.grad(of, has_aux=True)(new)
    assert [bool(s) for s in slope[:, 0] != 0] == [True, False, True, True]
    assert sums["clipped"] == 1


def test_groups_are_centred_and_scaled_and_equal_rewards_teach_nothing():
    rewards = np.array([[1.0, 0, 0, 1], [1, 1, 1, 1], [0.1, 1.1, 0.1, 0.1]])
    scaled = advantages(rewards, Objective())
    plain = advantages(rewards, Objective(scale_rewards="none"))
    np.testing.assert_allclose(scaled[0], [1, -1, -1, 1])
    assert not scaled[1].any()
    np.testing.assert_allclose(scaled[2].std(), 1)
    np.testing.assert_allclose(plain[2], rewards[2] - 0.35)


def test_each_mean_weighs_as_its_name_says():
    def of(loss_agg):
        return scales(LENGTHS, Objective(loss_agg=loss_agg), LONGEST)

    np.testing.assert_allclose(of("sequence-mean") * LENGTHS, [0.25] * 4)
    np.testing.assert_allclose(of("token-mean"), [1 / 11] * 4)
    np.testing.assert_allclose(of("constant-length"), [1 / 32] * 4)
    assert math.isclose((of("token-mean") * LENGTHS).sum(), 1, rel_tol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"loss_agg": "mean"}, {"scale_rewards": "std"}, {"epsilon": 0}, {"beta": -1}],
)
def test_switches_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dataclasses.replace(Objective(), **wrong)
