"""What may be said next, against sets of tokens and plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.engine.guides import (
    AllowedTokens,
    BadWords,
    Rules,
    Several,
    mask_of,
    rules_for,
)
from r1jax.engine.types import SamplingParams
from r1jax.presets import preset

VOCABULARY = 70  # not a multiple of 32
tokens = st.integers(0, VOCABULARY - 1)
few_tokens = st.integers(0, 3)  # so that words are met


def allowed_by(mask):
    """The tokens of a mask; None is all."""
    if mask is None:
        return set(range(VOCABULARY))
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCABULARY]
    return set(np.flatnonzero(bits).tolist())


@given(st.sets(tokens))
def test_a_mask_has_the_bits_of_its_tokens(some):
    assert mask_of(some, VOCABULARY).shape == (3,)
    assert allowed_by(mask_of(some, VOCABULARY)) == some


@given(st.sets(tokens), st.lists(tokens))
def test_allowed_tokens_stay_the_same(some, answer):
    guide = AllowedTokens(some, VOCABULARY)
    assert not guide.binds
    for token in answer:
        assert allowed_by(guide.mask()) == some
        guide.advance(token)


@settings(deadline=None)
@given(
    st.lists(st.lists(few_tokens, min_size=1, max_size=4).map(tuple), max_size=5),
    st.lists(few_tokens, max_size=12),
)
def test_no_bad_word_can_be_completed(words, answer):
    guide = BadWords(words, VOCABULARY)
    assert guide.binds == any(len(word) > 1 for word in words)
    for n, token in enumerate([*answer, 0]):
        said = tuple(answer[:n])
        completing = {
            last
            for last in range(VOCABULARY)
            for w in words
            if (*said, last)[-len(w) :] == w
        }
        assert allowed_by(guide.mask()) == set(range(VOCABULARY)) - completing
        guide.advance(token)


def test_several_guides_allow_what_all_allow():
    one, two = AllowedTokens(range(40), VOCABULARY), BadWords([(7,)], VOCABULARY)
    both = Several([one, two])
    assert not both.binds
    assert allowed_by(both.mask()) == set(range(40)) - {7}
    longer = BadWords([(1, 2)], VOCABULARY)
    three = Several([both, longer])
    assert three.binds
    three.advance(1)
    assert allowed_by(three.mask()) == set(range(40)) - {7, 2}


def test_end_tokens_wait_for_the_least_length():
    rules = Rules(VOCABULARY, least=2, ends=[3, 69])
    assert not rules.binds
    everything = set(range(VOCABULARY))
    assert [allowed_by(rules.mask(n)) for n in range(3)] == [
        everything - {3, 69},
        everything - {3, 69},
        everything,
    ]


def test_the_least_length_gives_way_where_only_end_tokens_are_left():
    rules = Rules(VOCABULARY, AllowedTokens([3], VOCABULARY), least=2, ends=[3, 69])
    assert allowed_by(rules.mask(0)) == {3}


def test_bits_of_no_token_allow_nothing():
    rules = Rules(VOCABULARY)
    assert not rules.allows(np.array([0, 0, 1 << 6], np.uint32))
    assert rules.allows(np.array([0, 0, 1 << 5], np.uint32))


class Broken:
    binds = True

    def __init__(self, mask=None):
        self._mask = mask

    def mask(self):
        return self._mask

    def advance(self, token):
        raise KeyError("the parser is lost")


@pytest.mark.parametrize("guide", [Broken(), Broken(np.zeros(2, np.uint32))])
def test_a_guide_that_fails_allows_nothing_and_says_why(guide):
    rules = Rules(VOCABULARY, guide)
    rules.mask(0)
    rules.advance(1)
    assert not rules.allows(rules.mask(1))
    assert "the parser is lost" in rules.failure or "a mask of (2,)" in rules.failure


def test_only_what_is_asked_for_makes_rules():
    config = preset("tiny-qwen2")
    assert rules_for(SamplingParams(logit_bias=((1, 2.0),)), config) is None
    assert rules_for(SamplingParams(min_tokens=0), config) is None
    for asked in (
        {"allowed_token_ids": (1,)},
        {"bad_words": ((1,),)},
        {"min_tokens": 3, "stop_token_ids": (1,)},
    ):
        rules = rules_for(SamplingParams(**asked), config)
        assert rules is not None
        assert not rules.binds
    asked = {"bad_words": ((1, 2),), "allowed_token_ids": (2, 5)}
    rules = rules_for(SamplingParams(**asked), config, AllowedTokens([5], 32))
    assert rules.binds
