"""The plain loop, compiled once for each model."""

import functools

import pytest

from r1jax.engine import simple


@pytest.fixture(scope="session", autouse=True)
def _plain_loop_compiles_once():
    """`simple.generate` compiles its model anew for each request; tests ask often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simple, "whole_logits", functools.cache(simple.whole_logits))
        yield
