import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import model
from r1jax.layers import moe
from r1jax.train.batch import Example, fill, pack
from r1jax.train.forward import score, score_ahead, token_logprobs


def sequences(rng, lengths, vocab=512):
    return [
        Example(list(map(int, rng.integers(0, vocab, n))), [1.0] * n) for n in lengths
    ]


def alone(config, params, tokens):
    hidden = model.forward(config, params, jnp.asarray(tokens))
    logits = jax.nn.log_softmax(model.logits(params, hidden))
    return logits[jnp.arange(len(tokens) - 1), jnp.asarray(tokens[1:])]


@pytest.mark.parametrize("family", ["r1", "qwen2"])
def test_packed_sequences_score_as_each_alone(family, tiny, tiny_params, rng):
    config, params = tiny(family), tiny_params(family)
    examples = sequences(rng, [9, 5, 12, 3])
    packed = pack(examples, 16)
    assert fill(packed) > 0.9
    run = jax.jit(lambda p: score(config, p, packed, remat=True))
    found = run(params)
    one = jax.jit(lambda p, tokens: alone(config, p, tokens))
    for row in range(len(packed.tokens)):
        for number in range(1, packed.segments[row].max() + 1):
            here = packed.segments[row] == number
            wanted = one(params, packed.tokens[row][here])
            assert found.logprobs[row][here][0] == 0
            np.testing.assert_allclose(found.logprobs[row][here][1:], wanted, atol=1e-5)
    if family == "r1":
        tokens = sum(len(e.tokens) for e in examples)
        assert found.loads.shape == (2, 16)
        assert (found.loads.sum(axis=1) == 4 * tokens).all()


def test_the_prediction_layer_scores_as_its_plain_form(tiny, tiny_params, rng):
    config, params = tiny("r1"), tiny_params("r1")
    packed = pack(sequences(rng, [9, 7]), 16)

    @jax.jit
    def run(params):
        hidden = score(config, params, packed).hidden
        return score_ahead(config, params, packed, hidden)

    ahead = run(params)
    found = ahead.logprobs
    assert ahead.loads.shape == (1, 16)
    assert ahead.loads.sum() == 4 * (8 + 6)  # the last tokens have no following ones
    plain = jax.jit(lambda tokens: model.mtp_forward(config, params, tokens))
    for number in (1, 2):
        here = packed.segments[0] == number
        tokens = jnp.asarray(packed.tokens[0][here])
        logits = plain(tokens)[:-1]
        wanted = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), tokens[2:]]
        np.testing.assert_allclose(found[0][here][2:], wanted, atol=1e-5)
        assert (found[0][here][:2] == 0).all()


def test_logits_by_blocks_equal_those_at_once(rng, monkeypatch):
    hidden, kernel = rng.normal(size=(7, 4)), rng.normal(size=(4, 10))
    targets = jnp.arange(7)
    hidden, kernel = jnp.float32(hidden), jnp.float32(kernel)
    grad = jax.grad(lambda k: token_logprobs(hidden, k, targets)[0].sum())
    whole, slope = token_logprobs(hidden, kernel, targets), grad(kernel)
    monkeypatch.setattr("r1jax.train.forward.BLOCK", 25)
    found = token_logprobs(hidden, kernel, targets)
    np.testing.assert_allclose(found, whole, atol=1e-6)
    np.testing.assert_allclose(grad(kernel), slope, atol=1e-5)


@pytest.mark.parametrize("form", [moe.experts_blocks, moe.experts_ragged])
@pytest.mark.parametrize("skewed", [False, True])
def test_experts_that_learn_equal_every_expert_on_every_token(form, skewed, rng):
    tokens, experts, d, f = 70, 4, 8, 6
    arrays = [(tokens, d), (experts, d, 2, f), (experts, f, d), (tokens, 2)]
    x, gate_up, down, weights = (jnp.float32(rng.normal(size=s)) for s in arrays)
    high = 2 if skewed else experts
    chosen = jnp.asarray([rng.choice(high, 2, replace=False) for _ in range(tokens)])

    def plain(x, gate_up, down, weights):
        hidden = jnp.einsum("TD,EDAF->TEAF", x, gate_up)
        y = jnp.einsum(
            "TEF,EFD->TED", jax.nn.silu(hidden[:, :, 0]) * hidden[:, :, 1], down
        )
        return jnp.einsum("TXD,TX->TD", y[jnp.arange(tokens)[:, None], chosen], weights)

    def learns(x, gate_up, down, weights):
        return form(x, gate_up, down, chosen, weights)

    given = (x, gate_up, down, weights)
    all_of_them = moe.experts_all(x, gate_up, down, (chosen, weights))
    np.testing.assert_allclose(learns(*given), all_of_them, atol=1e-4)
    np.testing.assert_allclose(plain(*given), all_of_them, atol=1e-4)
    slopes = [
        jax.grad(lambda *a, g=g: (g(*a) ** 2).sum(), argnums=(0, 1, 2, 3))(*given)
        for g in (learns, plain)
    ]
    for found, wanted in zip(*slopes, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=1e-4)
