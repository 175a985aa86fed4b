"""The whole recipe: lessons make a weak model, and rewards alone a better one."""

import jax
import pytest

import r1jax
from r1jax.evaluate.models import InProcess
from r1jax.evaluate.run import Plan, evaluate
from r1jax.evaluate.tasks import Item, Task
from r1jax.problems import draw
from r1jax.problems.__main__ import main as problems
from r1jax.remote import Sampling
from r1jax.train.__main__ import main as train

SUMS = ["--task", "add", "--language", "en", "--digits", "2"]
SFT = {
    "model": "nano-ci",
    "steps": 350,
    "save_every": 350,
    "data.width": 128,
    "data.rows": 16,
    "loss.mtp_weight": 0.0,
}
GRPO = {
    "tasks": "add",
    "languages": "en",
    "digits": 2,
    "steps": 30,
    "save_every": 30,
    "sampling.prompts": 32,
    "sampling.max_tokens": 80,
    "sampling.widths": (64, 96, 128),
    "engine.max_num_seqs": 128,
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.002,
}


@pytest.fixture
def optimised():
    """Lets the compiler do its work: here it is what it compiled that takes long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def trained(settings, output, **changes):
    """Trains by the command line; returns the model's directory."""
    changes["export_dtype"] = "float32"
    words = [f"--set={name}={value}" for name, value in changes.items()]
    assert train([settings, *words, "--output", str(output)]) == 0
    return output / f"hf-{changes['steps']}"


def pass_at_1(model, folder):
    """Asks sums of numbers that are held out once each, at temperature 1."""
    drawn = draw(["add"], 1024, 0, "held-out", languages=["en"], digits=2)
    items = (
        Item(str(at), problem.question, problem.answer, extra=problem)
        for at, problem in enumerate(drawn)
    )
    task = Task("sums", tuple(items), "problem", 1)
    llm = r1jax.load(model, max_model_len=128, max_num_seqs=128, page_size=16)
    plan = Plan(Sampling(temperature=1.0, top_p=1.0, max_tokens=80), samples=1)
    found = evaluate(InProcess(llm), task, plan, folder)
    llm.close()
    return found.pass_at_1.mean


@pytest.mark.slow(minutes=5)
def test_rewards_alone_go_on_where_lessons_stopped(tmp_path, optimised):
    words, lessons = tmp_path / "tokenizer", tmp_path / "lessons.jsonl"
    assert problems(["--write-tokenizer", str(words)]) == 0
    written = ["--lessons", str(lessons), "--count", "20000"]
    assert problems([*SUMS, *written]) == 0
    files = {"tokenizer": words, "data.files": lessons}
    weak = trained("sft:nano", tmp_path / "sft", **SFT, **files)
    better = trained("grpo", tmp_path / "grpo", **GRPO, model=weak)
    before = pass_at_1(weak, tmp_path / "before")
    after = pass_at_1(better, tmp_path / "after")
    assert 0.1 < before < 0.4
    assert after > before + 0.05
