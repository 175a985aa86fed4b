"""Whole runs: they resume, run on a mesh, and leave a model that loads."""

import json

import jax
import numpy as np
import pytest

import r1jax
from r1jax.train import sft as runs
from r1jax.train.__main__ import main
from r1jax.train.log import read


def losses(output):
    return [line["loss"] for line in read(output / "metrics.jsonl")]


def quiet(_):
    pass


def test_a_resumed_run_ends_as_if_it_had_not_stopped(sft, checkpoint, tmp_path):
    model = checkpoint("qwen2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert runs.run(sft(model), whole, False, quiet)
    assert losses(whole)[-1] < losses(whole)[0]

    real = runs.Log.write

    def kill(self, step, **numbers):
        real(self, step, **numbers)
        if step == 5:  # two steps behind the newest checkpoint
            raise RuntimeError("killed")

    runs.Log.write = kill
    try:
        with pytest.raises(RuntimeError, match="killed"):
            runs.run(sft(model), stopped, False, quiet)
    finally:
        runs.Log.write = real
    assert runs.run(sft(model), stopped, True, quiet)
    assert losses(stopped) == losses(whole)
    files = [o / "hf-6" / "model.safetensors" for o in (whole, stopped)]
    assert files[0].read_bytes() == files[1].read_bytes()

    llm = r1jax.load(whole / "hf-6")
    assert np.isfinite(llm.logits([3, 4, 5])).all()
    with pytest.raises(r1jax.errors.ConfigError, match="holds a run, saved after step"):
        runs.run(sft(model), whole, False, quiet)
    with pytest.raises(r1jax.errors.CheckpointError, match="seed is '1'"):
        runs.run(sft(model, "seed=1"), whole, True, quiet)


@pytest.mark.parametrize(
    "family", ["qwen2", pytest.param("r1", marks=pytest.mark.slow)]
)
def test_a_mesh_loses_as_one_device_does(family, sft, checkpoint, tmp_path):
    model, short = checkpoint(family), ("steps=3", "data.rows=4", "loss.unroll=False")
    found = []
    for mesh in ((1, 1), (4, 2)):
        output = tmp_path / str(mesh[0])
        settings = sft(model, *short, f"mesh.data={mesh[0]}", f"mesh.tensor={mesh[1]}")
        assert runs.run(settings, output, False, quiet)
        found.append(losses(output))
    np.testing.assert_allclose(*found, rtol=2e-5)


def test_adapters_are_merged_into_what_is_written(sft, checkpoint, tmp_path):
    model = checkpoint("qwen2")
    changes = ("lora.rank=2", "lora.kernels=q,down", "steps=3", "loss.unroll=False")
    assert runs.run(sft(model, *changes), tmp_path / "o", False, quiet)
    assert (tmp_path / "o" / "hf-3" / "tokenizer.json").exists()
    before, after = (r1jax.load(p).params for p in (model, tmp_path / "o" / "hf-3"))
    flat = [dict(jax.tree_util.tree_leaves_with_path(p)) for p in (before, after)]
    moved = {
        jax.tree_util.keystr(path)
        for path, leaf in flat[0].items()
        if not np.array_equal(leaf, flat[1][path])
    }
    assert {m.split("'")[-4] for m in moved} == {"q", "down"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["optimizer.learning_rat=1"], "did you mean 'learning_rate'"),
        (["steps=many"], "steps is 'many'"),
        (["steps"], "write --set name=value"),
        (["kind=dpo"], "the kinds of training are sft"),
        (["model="], "no model is named"),
        (["model=tiny-qwen2", "loss.mtp_weight=0.3"], "no multi-token-prediction"),
        (["lora.rank=4", "lora.kernels=q", "optimizer.name=muon"], "leave frozen"),
        (["lora.rank=4"], "lora.kernels is empty"),
        (["optimizer.warmup_steps=0"], "without a warm-up"),
        (["model=tiny-qwen2"], "has no tokenizer"),
        (["export_dtype=half"], "one of float32, bfloat16, float16"),
        (["loss.dtype=float16"], "one of float32, bfloat16"),
        (["data.rows=0"], "data.rows is 0"),
        (["data.parts=0"], "data.parts is 0"),
        (["save_every=0"], "save_every is 0"),
        (["seed=-1"], "seed is -1"),
        (["optimizer.learning_rate=0.0"], "nothing is learnt"),
        (["mesh.data=2", "data.rows=3"], "a multiple of mesh.data"),
    ],
)
def test_what_cannot_be_is_refused(changes, says, capsys, tmp_path):
    words = [word for change in changes for word in ("--set", change)]
    assert main(["configs/sft.py", *words, "--output", str(tmp_path / "o")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "it is no JSON"),
        ("[]", 'no list of "messages"'),
        ('{"messages": [{"role": "user", "content": "a"}]}', "ends with the role"),
        ('{"messages": [{"content": "a"}]}', "a message has no role"),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b" * 99},
                    ]
                }
            ),
            "rows have 64",
        ),
    ],
)
def test_a_bad_line_is_refused_with_its_place(line, says, sft, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n" + line)
    with pytest.raises(r1jax.errors.ConfigError) as error:
        runs.run(sft("tiny-qwen2", f"data.files={path}"), tmp_path / "o", False, quiet)
    assert f"{path}:2" in error.value.what
    assert says in str(error.value)
