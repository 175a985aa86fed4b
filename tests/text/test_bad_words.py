"""A forbidden string never comes, in whatever tokens."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from r1jax.text.bad_words import BadWords
from r1jax.text.tokenizer import Tokenizer

PIECES = ["a", "b", "Ġ", "ab", "ba", "aba", "Ġa", "aĠb", "Ã", "©", "Ã©", "bÃ"]


def tokenizer_of(folder, pieces, tokens) -> Tokenizer:
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(tokens)
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_directory(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return tokenizer_of(folder, PIECES, [AddedToken("<end>", special=True)])


def allowed(guide, size: int) -> list[int]:
    mask = guide.mask()
    assert mask.dtype == np.uint32
    assert mask.shape == (-(-size // 32),)
    return [i for i in range(32 * len(mask)) if mask[i // 32] >> i % 32 & 1]


@settings(deadline=None, max_examples=200)
@given(
    words=st.lists(st.text("abé ", min_size=1, max_size=4), min_size=1, max_size=3),
    tokens=st.lists(st.integers(0, len(PIECES)), max_size=6),
)
def test_exactly_what_would_complete_a_word_is_forbidden(tokenizer, words, tokens):
    size = 40  # more than the tokenizer has, as models have
    guide = BadWords(tokenizer, words, size).guide()
    said = b""
    for token in tokens:
        may = []
        for each in range(size):
            text = b"" if each >= 12 else tokenizer.token_bytes(each)
            whole = said + text
            if not any(w.encode() in whole for w in words) or not text:
                may.append(each)
        assert allowed(guide, size) == may
        if token not in may:
            break
        guide.advance(token)
        said += b"" if token >= 12 else tokenizer.token_bytes(token)


def test_every_spelling_of_a_word_is_caught(tokenizer):
    word = " aba"
    rule = BadWords(tokenizer, [word], 13)
    spellings = 0
    for length in range(1, 5):
        for tokens in itertools.product(range(12), repeat=length):
            if b"".join(map(tokenizer.token_bytes, tokens)) == word.encode():
                spellings += 1
                guide = rule.guide()
                for token in tokens[:-1]:
                    guide.advance(token)
                assert tokens[-1] not in allowed(guide, 13)
    assert spellings == 6


def test_a_control_token_is_forbidden_by_its_name_only(tokenizer):
    end = len(PIECES)
    assert end in allowed(BadWords(tokenizer, ["end", "a"], 13).guide(), 13)
    assert end not in allowed(BadWords(tokenizer, ["<end>"], 13).guide(), 13)


def test_a_mark_of_thinking_is_forbidden_by_its_name_only(tmp_path):
    mark = AddedToken("</think>", special=False)
    tokenizer = tokenizer_of(tmp_path, "think", [mark])
    close = tokenizer.token_id("</think>")
    assert close in allowed(BadWords(tokenizer, ["think"], 6).guide(), 6)
    assert close not in allowed(BadWords(tokenizer, ["</think>"], 6).guide(), 6)


def test_one_letter_binds_no_later_token(tokenizer):
    assert not BadWords(tokenizer, ["a"], 13).guide().binds
    assert BadWords(tokenizer, ["ab"], 13).guide().binds
