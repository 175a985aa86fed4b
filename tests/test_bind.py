"""Weights that change while the engine stays: what reinforcement learning needs."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from r1jax import parameters
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.errors import ConfigError, RequestError
from r1jax.llm import LLM

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
PROMPT = list(range(2, 22))


def make(config, params):
    options = EngineOptions(64, 1, 16, page_size=8, num_pages=40)
    return LLM("toy", config, params, None, options, GREEDY)


@pytest.fixture(scope="module")
def bound(tiny, tiny_params):
    """An engine that has answered with old weights and is bound to new ones."""
    config = tiny("qwen2")
    new = parameters.init(config, jax.random.key(7))
    llm = make(config, tiny_params("qwen2"))
    llm.engine.wait_until_compiled()
    yield llm, llm.generate(PROMPT), new
    llm.close()


def test_bound_weights_answer_as_if_loaded_and_reuse_nothing_old(bound, tiny):
    llm, [before], new = bound
    [again] = llm.generate(PROMPT)
    hits = llm.engine.stats().prefix_hits
    assert again.token_ids == before.token_ids
    assert hits == 16  # what a second answer finds
    llm.bind(new)
    [after] = llm.generate(PROMPT)
    assert llm.engine.stats().prefix_hits == hits
    fresh = make(tiny("qwen2"), new)
    [loaded] = fresh.generate(PROMPT)
    fresh.close()
    assert after.token_ids == loaded.token_ids != before.token_ids
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), llm.params, new)
    )
    llm.engine._scheduler.audit()


def test_binding_compiles_nothing_but_the_arranging_once(bound, caplog):
    llm, _, new = bound
    llm.bind(new)
    with jax.log_compiles():
        llm.bind(jax.tree.map(lambda x: x + 0, new))
        caplog.clear()
        llm.bind(new)
        llm.generate(PROMPT)
    assert [r for r in caplog.records if "Compiling" in r.getMessage()] == []


def test_weights_of_running_requests_cannot_change(bound):
    llm, _, new = bound
    events, tried = [], threading.Event()

    def hold(event):
        """Keeps the engine's thread, and so the request, until it was tried."""
        events.append(event)
        assert tried.wait(60)

    number = llm.engine.submit(PROMPT, GREEDY, hold)
    try:
        with pytest.raises(RequestError, match="1 requests use them"):
            llm.bind(new)
    finally:
        tried.set()
    llm.engine.cancel(number)
    while not (events and events[-1].finish):
        time.sleep(0.01)
    llm.bind(new)


def test_bound_weights_that_were_given_up_are_not_run(bound, monkeypatch):
    llm, _, new = bound
    llm.bind(new)
    lent = jax.tree.map(lambda x: x + 0, llm.engine.params)
    jax.tree.map(lambda x: x.delete(), lent)
    monkeypatch.setattr(llm.engine._runner, "params", lent)
    for shape in llm.engine._shapes.first:
        llm.engine._runner.warm(shape)


def test_weights_of_another_model_are_refused(bound, tiny_params):
    llm, _, new = bound
    with pytest.raises(ConfigError, match="names or shapes"):
        llm.bind(tiny_params("llama"))
    with pytest.raises(ConfigError, match="not like those"):
        llm.engine.bind(jax.tree.map(lambda x: x[..., :1], llm.engine.params))
    llm.bind(new)


def test_a_model_without_an_engine_yet_takes_weights_too(tiny, tiny_params):
    config = tiny("qwen2")
    new = parameters.init(config, jax.random.key(7))
    llm = make(config, tiny_params("qwen2"))
    llm.bind(jax.tree.map(lambda x: x.astype(jnp.float32), new))
    assert jnp.abs(llm.logits(PROMPT) - make(config, new).logits(PROMPT)).max() == 0
