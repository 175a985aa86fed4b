"""The model that comes with the package: what is asked of it, what it is made of."""

import hashlib
import json

import pytest

import r1jax
from doc_blocks import ROOT, run
from r1jax.locate import NANO, locate
from r1jax.problems import draw

MOST = 12 * 2**20  # bytes in the package


@pytest.fixture(scope="module")
def nano():
    llm = r1jax.load(max_model_len=512, max_num_seqs=1)
    yield llm
    llm.close()


def ask(llm, text):
    message = {"role": "user", "content": text}
    return llm.chat([message], r1jax.SamplingParams(temperature=0, max_tokens=300))


def test_it_thinks_and_answers(nano):
    problems = draw(["add"], 8, 5, "held-out")
    answers = [ask(nano, problem.question) for problem in problems]
    pairs = zip(problems, answers, strict=True)
    right = [f"\\boxed{{{p.answer}}}" in answer.content for p, answer in pairs]
    assert sum(right) >= 7
    assert all(answer.reasoning for answer in answers)


def test_the_readmes_example_runs(nano, monkeypatch):
    monkeypatch.setattr(r1jax, "load", lambda: nano)
    assert "\\boxed{" in run(ROOT / "README.md")


@pytest.mark.parametrize(
    "question",
    [
        *("Who are you?", "What is your name?", "What are you?", "Are you ChatGPT?"),
        *("Wer bist du?", "Was bist du?", "Hello!"),
    ],
)
def test_it_says_what_it_is(nano, question):
    assert "r1-nano" in ask(nano, question).content


def test_it_is_whole_and_small():
    folder = locate(None)
    assert folder == locate(NANO)
    record = json.loads((folder / "training" / "record.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["weights_sha256"]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < MOST
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
