"""Whole runs of reinforcement learning, begun, stopped and gone on with."""

import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import r1jax
from r1jax.errors import ConfigError
from r1jax.train import rl, settings
from r1jax.train.log import read
from r1jax.train.rewards import REWARDS
from r1jax.weights.hf import HfCheckpoint


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


def test_a_run_writes_what_it_did_not_learn_as_it_was(
    checkpoint, tokenizer_directory, tmp_path, monkeypatch
):
    place = checkpoint("r1")  # it has a layer that looks ahead
    for file in tokenizer_directory.iterdir():
        shutil.copy(file, place)

    def learn_nothing(llm, policy, *rest):
        policy.step = 4
        yield {"step": 4.0}

    monkeypatch.setattr(rl.grpo, "train", learn_nothing)
    assert rl.run(make(place), tmp_path / "run", resume=False)
    written = tmp_path / "run" / "hf-4"
    before, after = (load_file(p / "model.safetensors") for p in (place, written))
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor, name)
    assert (written / "tokenizer.json").exists()


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


@pytest.mark.slow(minutes=2)
def test_adapters_learn_in_bfloat16_and_are_merged_when_written(
    model, tmp_path, monkeypatch
):
    def low(task, completion):
        return sum(t < 256 for t in completion.tokens) / len(completion.tokens)

    monkeypatch.setitem(REWARDS, "accuracy", low)
    words = ["dtype=bfloat16", "lora.rank=2", "lora.kernels=q,down", "steps=2"]
    assert rl.run(make(model, *words), tmp_path, False)
    lines = read(tmp_path / "metrics.jsonl")
    assert all(0 < line["largest_mismatch"] < 0.3 for line in lines)
    before, after = (r1jax.load(p).params for p in (model, tmp_path / "hf-2"))
    flat = [dict(jax.tree_util.tree_leaves_with_path(p)) for p in (before, after)]
    moved = {
        jax.tree_util.keystr(path).split("'")[-4]
        for path, leaf in flat[0].items()
        if not np.array_equal(leaf.astype(jnp.bfloat16), flat[1][path])
    }
    assert moved == {"q", "down"}


def test_ctrl_c_ends_after_the_step_and_resuming_goes_on(model, tmp_path, monkeypatch):
    def train(llm, policy, learner, draw, judge, settings, steps):
        while policy.step < steps:
            policy.step += 1
            if policy.step == 1:
                signal.raise_signal(signal.SIGINT)
            yield {"step": policy.step, "reward": 0.5}

    monkeypatch.setattr(rl.grpo, "train", train)
    reads, read_params = [], HfCheckpoint.params

    def params(self, *args, **more):
        reads.append(self.path)
        return read_params(self, *args, **more)

    monkeypatch.setattr(HfCheckpoint, "params", params)
    said = []
    assert not rl.run(make(model), tmp_path, False, said.append)
    assert len(reads) == 1
    assert said[-1] == "stopped and saved after step 1; --resume goes on"
    assert not (tmp_path / "hf-4").exists()
    assert rl.run(make(model), tmp_path, True, said.append)
    assert "goes on after step 1" in said
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "hf-4" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rewards.accuracy=0.0", "no weight"),
        ("tasks=('chess',)", "chess"),
        ("languages=('fr',)", "'fr' is no language"),
        ("digits=5", "of up to 5 digits"),
        ("sampling.group=1", "group is 1"),
        ("objective.loss_agg='sum'", "loss_agg"),
        ("dtype=float16", "dtype is 'float16'"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    change, message, tmp_path
):
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match=message):
        rl.run(make("nowhere", change), output, resume=False)
    assert not output.exists()
