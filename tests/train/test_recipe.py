"""The whole recipe: lessons make a weak model, and rewards alone a better one."""

import jax
import pytest

from claim_runs import Runs
from r1jax.train import settings


@pytest.fixture
def optimised():
    """Lets the compiler do its work: here it is what it compiled that takes long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow(minutes=8)
def test_rewards_alone_go_on_where_lessons_stopped(tmp_path, optimised):
    """Measured with 1,024 problems that are held out, at temperature 1.

    More thoughts and steps than the claim of rewards alone: its base model may have
    learnt to think only just, and on some machines too little to be rewarded.
    """
    changes = ["lessons.direct=0.5", "base.steps=1000", "rl.steps=12"]
    config = settings.load("claims:zero", changes)
    runs = Runs(config, tmp_path, 0, print)
    lessons = runs.lessons("lessons", **config.lessons)
    weak = runs.fine_tune("weak", config.model, lessons, config.base)
    better = runs.reinforce("better", weak)
    before, after = runs.measure(weak), runs.measure(better)
    assert 0.1 < before["accuracy"] < 0.6
    assert after["accuracy"] > before["accuracy"] + 0.05
    assert after["tokens"] > before["tokens"]
