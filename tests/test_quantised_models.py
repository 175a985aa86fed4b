"""A model of few bits gives what the float32 numbers that it stands for give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model, parameters, quant
from r1jax.presets import preset
from r1jax.quant import FORMS, Scheme

TOKENS = np.arange(7, 48)
FEW = 5  # rows that are multiplied one by one on a CPU


@functools.cache
def toy(family, form):
    """The model, its float32 parameters, and those of few bits."""
    config = preset(f"tiny-{family}")
    params = jax.jit(lambda: parameters.init(config, jax.random.key(0)))()
    params = jax.tree.map(np.asarray, params)
    few = quant.quantise_tree(params, Scheme(form, form, form))
    return config, params, few


@functools.cache
def compiled(family):
    config = preset(f"tiny-{family}")
    return jax.jit(lambda p, t: model.logits(p, model.forward(config, p, t)))


CASES = [("r1", form) for form in FORMS] + [("qwen2", "fp8_blocks")]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "form"), CASES)
def test_products_are_those_of_the_widened_weights(family, form):
    """Scanned, and arranged for a CPU, where few rows have a form of their own."""
    _, params, few = toy(family, form)
    run, arranged = compiled(family), model.for_cpu(few)
    wanted = run(quant.widen_tree(few, params), TOKENS)
    answers = [run(few, TOKENS), run(arranged, TOKENS), run(arranged, TOKENS[:FEW])]
    for found in answers:
        assert found.dtype == jnp.float32
        error = np.abs(found - wanted[: len(found)]).max()
        assert error <= 1e-5 * np.abs(wanted).max()


SLOW = [pytest.param("r1", form, marks=pytest.mark.slow) for form in ("int8", "fp8")]
BRIEF = [case for case in CASES if case[1] in ("int4", "fp8_blocks")]


@pytest.mark.parametrize(("family", "form"), [*BRIEF, *SLOW])
def test_the_arrangement_for_a_cpu_can_be_undone(family, form):
    config, _, few = toy(family, form)
    like = parameters.abstract(config, jnp.float32, quant.scheme_of(few))
    back = jax.jit(lambda few: model.from_cpu(model.for_cpu(few), like))(few)
    assert jax.tree.structure(back) == jax.tree.structure(few)
    jax.tree.map(np.testing.assert_array_equal, back, few)
