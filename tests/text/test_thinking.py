"""Thoughts are free until their budget is spent; what follows fits its grammar."""

import json

import numpy as np
import pytest

from r1jax.text import grammar, split
from r1jax.text.grammar import Grammars
from r1jax.text.masks import TokenMasks
from r1jax.text.thinking import CLOSING, ThoughtGuide
from text.babble import allowed, babble

SIZE = 330
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
SCHEMA |= {"additionalProperties": False}


@pytest.fixture(scope="module")
def grammars(tiny) -> Grammars:
    return Grammars(TokenMasks(tiny, SIZE, tiny.eos_ids))


@pytest.fixture
def guide(grammars):
    def make(budget=None, schema=None):
        then = None
        if schema is not None:
            then = grammars.guide(grammar.json_schema(schema))
        return ThoughtGuide(grammars.masks, budget, then)

    return make


def say(guide, tokenizer, text):
    """Says a text, a token a byte where it is no tag, as far as the guide allows it."""
    ids = [token for letter in text for token in tokenizer.encode(letter)]
    for index, token in enumerate(ids):
        if token not in allowed(guide.mask(), SIZE):
            return index
        guide.advance(token)
    return len(ids)


@pytest.mark.parametrize("budget", [0, 1, 7, 40])
def test_thoughts_are_closed_when_their_budget_is_spent(guide, tiny, grammars, budget):
    leader = guide(budget)
    rng, said = np.random.default_rng(budget), []
    letters = tiny.encode("abc xyz")  # of one byte each
    while leader.binds or len(said) < budget:
        mask = leader.mask()
        token = int(rng.choice(letters if mask is None else allowed(mask, SIZE)))
        leader.advance(token)
        said.append(token)
    assert said[budget:] == tiny.encode(CLOSING)
    assert leader.mask() is None
    thought, answer = split(tiny.decode(said + tiny.encode("ok")), thinking=True)
    assert thought == tiny.decode(said[:budget]).strip("\n")
    assert answer == "ok"


def test_a_budget_does_not_cut_a_character(guide, tiny):
    smile = tiny.encode("🙂")
    assert len(smile) > 1
    leader = guide(3)
    for token in tiny.encode("ab") + smile:
        assert leader.mask() is None
        leader.advance(token)
    assert allowed(leader.mask(), SIZE).tolist() == tiny.encode(CLOSING)[:1]


def test_a_character_that_never_ends_does_not_stretch_a_budget(guide, tiny):
    leader = guide(3)
    for token in tiny.encode("🙂")[:1] * 6:
        assert leader.mask() is None
        leader.advance(token)
    assert leader.mask() is not None


def test_thoughts_that_end_in_time_are_left_alone(guide, tiny):
    leader = guide(30)
    for token in tiny.encode("short\n</think>\n\nanswer of any length " * 3):
        assert leader.mask() is None
        leader.advance(token)
    assert not leader.binds


def test_only_the_end_of_a_budget_binds(guide, tiny):
    leader, bound = guide(100), []
    for token in tiny.encode("z") * 100:
        bound.append(leader.binds)
        leader.advance(token)
    assert bound == [False] * 84 + [True] * 16


@pytest.mark.parametrize("budget", [None, 12])
def test_random_weights_think_and_then_answer_in_the_schema(
    guide, tiny, grammars, budget
):
    for seed in range(10):
        leader = guide(budget, SCHEMA)
        rng, thought = np.random.default_rng(seed), []
        while not thought or thought[-1] != tiny.token_id("</think>"):
            token = int(rng.choice(allowed(leader.mask(), SIZE)))
            leader.advance(token)
            thought.append(token)
        if budget:
            assert len(thought) <= budget + 3 + 2  # a character, and the closing
        said, finish = babble(leader, grammars.masks, seed)
        assert finish == "stop"
        _, answer = split(tiny.decode(thought + said), thinking=True)
        assert json.loads(answer)["a"] in (1, 2)


def test_thoughts_before_a_grammar_cannot_end_the_answer(guide, tiny):
    assert tiny.eos_id not in allowed(guide(None, SCHEMA).mask(), SIZE)
    assert guide(None).mask() is None


@pytest.mark.parametrize("gap", ["", "\n", "\n\n"])
def test_line_ends_may_stand_before_a_constrained_answer(guide, tiny, gap):
    text = "hm" + "</think>" + gap + '{"a":1}'
    leader = guide(None, SCHEMA)
    for token in tiny.encode(text):
        assert token in allowed(leader.mask(), SIZE)
        leader.advance(token)
    assert set(allowed(leader.mask(), SIZE)) == set(tiny.eos_ids)


def test_more_line_ends_may_not(guide, tiny):
    leader = guide(None, SCHEMA)
    leader.advance(tiny.token_id("</think>"))
    assert say(leader, tiny, "\n\n\n{") == 2
    assert say(leader, tiny, '{"a": 2}') == 8


def test_a_closing_tag_that_is_spelled_out_ends_the_thoughts_too(guide, tiny):
    leader = guide(None, SCHEMA)
    assert say(leader, tiny, "a < b </thin </think>\n") == len(
        "a < b </thin </think>\n"
    )
    assert say(leader, tiny, "x") == 0
    assert say(leader, tiny, '{"a":1}') == 7


def test_no_token_runs_past_the_closing_tag_into_the_answer(real):
    tokenizer = real("r1")
    masks = TokenMasks(tokenizer, 129_280, tokenizer.eos_ids)
    then = Grammars(masks).guide(grammar.json_schema(SCHEMA))
    leader = ThoughtGuide(masks, None, then)
    ends, runs_on = tokenizer.encode(">\n\n"), tokenizer.encode(">{")
    assert len(ends) == len(runs_on) == 1
    for token in tokenizer.encode("so")[:1] + tokenizer.encode("</thin"):
        leader.advance(token)
    assert runs_on[0] in allowed(leader.mask(), masks.size)
    leader.advance(tokenizer.encode("k")[0])
    assert ends[0] in allowed(leader.mask(), masks.size)
    assert runs_on[0] not in allowed(leader.mask(), masks.size)
