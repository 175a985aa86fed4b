"""The estimators are what counting every case gives."""

import itertools
import math

import numpy as np
import pytest

from r1jax.evaluate.estimates import consensus, over_problems, pass_at_k


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_is_the_share_of_all_choices_with_a_right_one(correct, k):
    samples = [True] * correct + [False] * (5 - correct)
    chosen = [any(each) for each in itertools.combinations(samples, k)]
    assert pass_at_k(5, correct, k) == pytest.approx(np.mean(chosen))


def test_the_standard_error_is_that_of_the_mean_over_problems(rng):
    scores = rng.random(20)
    found = over_problems(list(scores))
    assert found.mean == pytest.approx(scores.mean())
    assert found.stderr == pytest.approx(scores.std(ddof=1) / math.sqrt(20))


def test_the_interval_holds_just_the_shares_that_do_not_contradict_the_sample():
    found = over_problems([1.0] * 7 + [0.0] * 13)
    for share in (found.low, found.high):  # Wilson's definition, solved for the mean
        error = math.sqrt(share * (1 - share) / 20)
        assert abs(0.35 - share) == pytest.approx(1.959964 * error, rel=1e-5)


def test_the_interval_covers_the_truth_as_often_as_it_says(rng):
    covered = 0
    for _ in range(1000):
        chances = rng.beta(2, 1, 40)  # problems of different difficulty, mean 2/3
        scores = rng.binomial(4, chances) / 4
        found = over_problems(list(scores))
        covered += found.low <= 2 / 3 <= found.high
    assert covered >= 950


@pytest.mark.parametrize("problems", [1, 10, 50, 1000])
def test_the_interval_holds_the_mean_where_all_or_none_are_right(problems):
    """To the last bit: what is drawn are distances from the mean, none negative."""
    none, every = over_problems([0.0] * problems), over_problems([1.0] * problems)
    assert none.low == none.mean == 0.0 < none.high
    assert every.high == every.mean == 1.0 > every.low


def test_certainty_is_never_claimed():
    assert over_problems([1.0] * 10).low < 0.8
    assert over_problems([0.0] * 10).high > 0.2
    assert math.isnan(over_problems([1.0]).stderr)


@pytest.mark.parametrize(
    ("votes", "correct", "share"),
    [
        ([0, 0, 1], [True, True, False], 1),
        ([0, 1, 1], [True, False, False], 0),
        ([0, 1], [True, False], 0.5),
        ([0, 1, 2], [False, False, True], 1 / 3),
        ([None, None, 0], [False, False, True], 1),
        ([None, None], [False, False], 0),
    ],
)
def test_the_majority_decides_and_ties_are_shared(votes, correct, share):
    assert consensus(votes, correct) == pytest.approx(share)
