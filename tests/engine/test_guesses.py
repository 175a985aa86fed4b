"""The prediction layer, run beside the model, guesses what its plain form guesses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from engine.collect import ask, continuations
from golden_files import golden
from r1jax import cache, model, parameters
from r1jax.engine import simple, stepper
from r1jax.engine.drafts import guess_for
from r1jax.engine.loop import Engine
from r1jax.engine.types import EngineOptions, SamplingParams
from r1jax.layers import mtp
from r1jax.presets import preset
from r1jax.target import CPU, PLAIN
from r1jax.weights import open_source

NAME, LONGEST = "deepseek_fp8_mtp", 256


@functools.cache
def source():
    opened = open_source(golden(NAME).directory)
    params = opened.params("float32", mtp=True)
    return opened.config, jax.tree.map(jnp.asarray, params)


def run_engine(config, params, form, count, page=16):
    options = EngineOptions(LONGEST, 2, 64, page, draft="mtp", num_draft_tokens=count)
    pools = cache.make_pools(
        config, LONGEST // page * 2 + 1, page, jnp.float32, more_layers=1
    )
    if form == CPU:
        params = model.for_cpu(params)
    return Engine(config, params, pools, options, target=form)


@functools.partial(jax.jit, static_argnums=(0, 4))
def plain_guesses(config, params, tokens, length, count):
    """Guesses behind a sequence of so many tokens, the whole of it run anew."""
    hidden = model.forward(config, params, tokens)
    layer = jax.tree.map(lambda leaf: leaf[0], params["mtp"])
    turn = model._turn(config, jnp.arange(len(tokens)))
    guesses = []
    for n in range(count):
        following = jnp.roll(tokens, -1)
        state, _ = mtp.look_ahead(config, layer, hidden, following, turn, None)
        at = length - 2 + n
        guess = jnp.argmax(mtp.head(config, layer, state[at][None]))
        guesses.append(guess)
        # The layer goes on behind itself: its state there, and its own guess.
        hidden = hidden.at[at + 1].set(state[at])
        tokens = tokens.at[at + 2].set(guess)
    return jnp.stack(guesses)


def check_guesses(monkeypatch, form, count):
    """Compares answers with transformers', and each guess with the plain one."""
    (config, params), answers, seen = source(), golden(NAME), []

    def note(drafter, sequence, device):
        found = guess_for(drafter, sequence, device)
        seen.append((list(sequence.tokens), found))
        return found

    monkeypatch.setattr(stepper, "guess_for", note)
    engine = run_engine(config, params, form, count)
    found = continuations(engine, answers)
    engine.close()
    assert found == answers.continuations
    right = 0
    for tokens, guesses in seen:
        padded = jnp.zeros(LONGEST, jnp.int32).at[: len(tokens)].set(jnp.array(tokens))
        plain = plain_guesses(config, params, padded, len(tokens), count)
        assert guesses == plain.tolist(), len(tokens)
        whole = next(
            w
            for p, a in zip(answers.prompts, answers.continuations, strict=True)
            if (w := p.tolist() + a)[: len(tokens)] == tokens
        )
        ahead = whole[len(tokens) : len(tokens) + count]
        same = [g == t for g, t in zip(guesses, ahead, strict=False)]
        right += same.index(False) if False in same else len(same)
    stats = engine.stats()
    assert len(seen) > 80
    assert stats.drafted > 80 * count
    # The last guess of all has no token left to be right for.
    assert stats.accepted == pytest.approx(right, abs=len(answers.prompts) * count)
    assert stats.accepted > 0


@pytest.mark.slow
def test_each_guess_is_the_plain_layers(monkeypatch):
    """Prompts in chunks, two sequences beside each other, two tokens guessed."""
    check_guesses(monkeypatch, PLAIN, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "count"), [(CPU, 1), (CPU, 3), (PLAIN, 1)])
def test_each_guess_is_the_plain_layers_in_every_form(monkeypatch, form, count):
    check_guesses(monkeypatch, form, count)


def successor_model():
    """A model that answers each token by another, and whose layer knows which.

    Nothing but the embedding reaches the heads: all other layers add zero.
    """
    config = dataclasses.replace(preset("tiny-r1"), vocab_size=64, eos_ids=())
    assert config.width == 64
    params = jax.jit(lambda: parameters.init(config, jax.random.key(0)))()

    def silent(path, leaf):
        names = [key.key for key in path]
        return (
            jnp.zeros_like(leaf)
            if names[-2] in ("o", "down") or names[-1] == "down"
            else leaf
        )

    params = jax.tree_util.tree_map_with_path(silent, params)
    eye = jnp.eye(64)
    step = jnp.roll(eye, 7, axis=1)
    params["embed"]["embedding"], params["lm_head"]["kernel"] = eye, step
    ahead = params["mtp"]
    ahead["embed"]["embedding"], ahead["lm_head"]["kernel"] = eye[None], step[None]
    ahead["projection"]["kernel"] = jnp.concatenate([eye, 0 * eye])[None]
    return config, params


@pytest.mark.slow
def test_a_layer_that_is_right_halves_the_steps():
    config, params = successor_model()
    engine = run_engine(config, params, PLAIN, 1)
    answer = ask(engine, [5, 3], max_tokens=41)
    engine.close()
    sampling = SamplingParams(temperature=0.0, max_tokens=41)
    wanted = simple.generate(config, params, [5, 3], sampling, max_model_len=LONGEST)
    assert answer.tokens == wanted
    assert wanted[:3] == [10, 17, 24]
    stats = engine.stats()
    assert stats.accepted == stats.drafted == 20
    assert stats.steps == 21
