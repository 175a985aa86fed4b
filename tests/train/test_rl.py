"""Whole runs of reinforcement learning, begun, stopped and gone on with."""

import shutil

import jax
import numpy as np
import pytest

import r1jax
from r1jax.errors import ConfigError
from r1jax.train import rl, settings
from r1jax.train.log import read
from r1jax.train.rewards import REWARDS


@pytest.fixture(scope="module")
def model(checkpoint, tokenizer_directory):
    place = checkpoint("qwen2")
    for file in tokenizer_directory.iterdir():
        shutil.copy(file, place)
    return place


def make(model, *more):
    changes = {
        "model": model,
        "steps": 4,
        "save_every": 2,
        "export_dtype": "float32",
        "rewards.format": 0.0,
        "sampling.group": 4,
        "sampling.prompts": 2,
        "sampling.max_tokens": 8,
        "sampling.widths": "(384,)",
        "sampling.tokens_at_once": 3072,
        "sampling.minibatches": 1,
        "engine.max_num_seqs": 8,
        "optimizer.warmup_steps": 1,
    }
    words = [f"{name}={value}" for name, value in changes.items()]
    return settings.load("configs/grpo.py", [*words, *more])


@pytest.mark.slow(minutes=3)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(model, tmp_path, monkeypatch):
    def low(task, completion):
        return sum(t < 256 for t in completion.tokens) / len(completion.tokens)

    monkeypatch.setitem(REWARDS, "accuracy", low)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert rl.run(make(model), whole, resume=False)
    saved = rl.Checkpoints.save

    def save_and_die(self, state, about):
        saved(self, state, about)
        raise KeyboardInterrupt

    monkeypatch.setattr(rl.Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        rl.run(make(model), parts, resume=False)
    monkeypatch.setattr(rl.Checkpoints, "save", saved)
    with pytest.raises(ConfigError, match="holds a run, saved after step 2"):
        rl.run(make(model), parts, resume=False)
    assert rl.run(make(model), parts, resume=True)
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read(p)]
        for p in (whole / "metrics.jsonl", parts / "metrics.jsonl")
    ]
    assert len(lines[0]) == 4
    assert lines[0][0]["largest_mismatch"] < 1e-3
    for one, other in zip(*lines, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    ends = [r1jax.load(place / "hf-4").params for place in (whole, parts)]
    begin = r1jax.load(model).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), ends[0], begin)
    assert max(jax.tree.leaves(moved)) > 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rewards.accuracy=0.0", "no weight"),
        ("tasks=('chess',)", "chess"),
        ("languages=('fr',)", "'fr' is no language"),
        ("digits=5", "of up to 5 digits"),
        ("sampling.group=1", "group is 1"),
        ("objective.loss_agg='sum'", "loss_agg"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    change, message, tmp_path
):
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match=message):
        rl.run(make("nowhere", change), output, resume=False)
    assert not output.exists()


@pytest.mark.slow
def test_answers_are_sampled_and_none_of_random_weights_is_right(model, tmp_path):
    small = ["rules.samples=2", "rules.max_tokens=4", "engine.max_num_seqs=4"]
    words = [f"model={model}", "problems=2", *small]
    said = []
    asked = settings.load("configs/reject.py", words)
    assert rl.run_reject(asked, tmp_path, False, said.append)
    assert said == ["kept 0 of 4 answers"]
    assert (tmp_path / "kept.jsonl").read_text() == ""
    with pytest.raises(ConfigError, match="--resume"):
        rl.run_reject(asked, tmp_path, True)
