"""Engines without arrays, and of a toy model, which takes long to compile: once."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from engine import fake_engine
from engine.fake_engine import FakeRunner, Permits
from engine.toy_engine import (
    CONFIG,
    REQUESTS,
    Knowing,
    engine_of,
    meshed_engine,
    plain,
    prompt_of,
)
from r1jax import parameters
from r1jax.engine import loop
from r1jax.engine.loop import Engine
from r1jax.engine.types import EngineOptions
from r1jax.target import CPU


@pytest.fixture
def make_engine(monkeypatch):
    """Makes engines whose steps can be held (`paused`); closes them at the end."""
    engines = []

    def make(
        *,
        paused=False,
        broken=None,
        judging=None,
        pages=12,
        slots=2,
        eos=(),
        hosts=None,
        **options,
    ):
        class Runner(FakeRunner):
            permits = Permits() if paused else None

        Runner.broken = broken
        Runner.judging = staticmethod(judging) if judging else None
        monkeypatch.setattr(loop, "Runner", Runner)
        pools = {"key": jnp.zeros((1, pages + 1, 1, fake_engine.PAGE, 1))}
        limits = EngineOptions(
            fake_engine.LONGEST, slots, 8, fake_engine.PAGE, **options
        )
        config = dataclasses.replace(fake_engine.CONFIG, eos_ids=eos)
        engine = Engine(config, None, pools, limits, target=CPU, hosts=hosts)
        engines.append((engine, Runner))
        return (engine, Runner.permits) if paused else engine

    yield make
    for engine, runner in engines:
        if runner.permits:
            runner.permits.release(10**6)
        engine.close()


@pytest.fixture(scope="session")
def params():
    return jax.jit(lambda: parameters.init(CONFIG, jax.random.key(7)))()


@pytest.fixture(scope="session")
def plain_answers(params):
    """What the plain loop answers to each of REQUESTS, 40 tokens at most."""
    return [
        plain(params, prompt_of(length), **{"max_tokens": 40, **sampling})
        for length, sampling in REQUESTS
    ]


@pytest.fixture(scope="session")
def guessing(params, plain_answers):
    """Two at once, few pages, and guesses of which most are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_drafter", lambda options: Knowing(plain_answers))
        engine = engine_of(
            params,
            slots=2,
            chunk=16,
            pages=42,
            page_size=4,
            draft="ngram",
            num_draft_tokens=3,
        )
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def meshed_guessing(params, plain_answers):
    """As `meshed`, with guesses of which most are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_drafter", lambda options: Knowing(plain_answers))
        engine = meshed_engine(params, draft="ngram", num_draft_tokens=3)
    engine.wait_until_compiled()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def roomy(params):
    """Two at once, both their prompts in a step, pages for all."""
    engine = engine_of(params, slots=2, chunk=128, pages=100, page_size=8)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tight(params):
    """Three at once, short chunks, and pages for little more than one."""
    engine = engine_of(params, slots=3, chunk=16, pages=42, page_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def meshed(params):
    """Two data shards of two devices each, through the kernels' meanings."""
    engine = meshed_engine(params)
    engine.wait_until_compiled()
    yield engine
    engine.close()


@pytest.fixture(
    params=[
        *("roomy", "tight", "meshed", "guessing"),
        pytest.param("meshed_guessing", marks=pytest.mark.slow(minutes=1)),
    ]
)
def engine(request):
    return request.getfixturevalue(request.param)
