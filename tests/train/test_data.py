import json

import numpy as np
import pytest

from r1jax.errors import ConfigError
from r1jax.text import Tokenizer
from r1jax.train import data
from r1jax.train.batch import Example, best_fit, pack


@pytest.fixture(scope="module")
def tokenizer(tokenizer_directory):
    return Tokenizer.from_directory(tokenizer_directory)


def learnt(tokenizer, example):
    some = [t for t, w in zip(*example, strict=True) if w]
    return tokenizer.decode(some, skip_special=False)


def test_only_the_answer_is_learnt_with_its_thoughts_and_its_end(tokenizer):
    question = {"role": "user", "content": "1+1?"}
    answer = {"role": "assistant", "reasoning_content": "count", "content": "2"}
    example = data.to_example(tokenizer, [question, answer])
    assert learnt(tokenizer, example) == "count\n</think>\n\n2<eos>"
    assert tokenizer.decode(example.tokens, skip_special=False) == (
        "<bos><user>1+1?<assistant><think>\ncount\n</think>\n\n2<eos>"
    )


def test_an_answer_without_thoughts_is_learnt_as_it_is(tokenizer):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": content} for role, content in turns]
    example = data.to_example(tokenizer, messages)
    assert learnt(tokenizer, example) == "d<eos>"


def test_rows_are_filled_by_best_fit():
    assert best_fit([5, 3, 7, 2, 4], 8) == [[2], [0, 1], [4, 3]]


def test_a_packed_row_says_where_its_sequences_lie():
    packed = pack([Example([5, 6, 7], [1, 0, 1]), Example([8, 9], [1, 1])], 6)
    assert packed.tokens.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert packed.segments.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert packed.weights.tolist() == [[0, 0, 1, 0, 1, 0]]


def test_what_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="a sequence of 3 tokens"):
        pack([Example([1, 2, 3], [1, 1, 1])], 2)
    with pytest.raises(ConfigError, match="2 sequences take 2 rows"):
        pack([Example([1, 2], [1, 1])] * 2, 2, rows=1)


def test_longer_conversations_are_left_out_where_that_is_asked(tokenizer, tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    longer = [{"role": "user", "content": "a" * 50}, turns[1]]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(json.dumps({"messages": m}) for m in (turns, longer)))
    short = len(data.to_example(tokenizer, turns).tokens)
    found, dropped = data.examples(tokenizer, [file], short, drop_longer=True)
    assert [len(e.tokens) for e in found] == [short]
    assert dropped == 1
    with pytest.raises(ConfigError, match=r"some.jsonl:2 has \d+ tokens"):
        data.examples(tokenizer, [file], short)


def test_an_epoch_sees_every_row_once_across_batches():
    some = [Example([i, i], [0, 1]) for i in range(5)]
    batches = data.Batches(some, 2, 2, 1, seed=3)
    seen = np.concatenate([batches[i].tokens[0, :, 0] for i in range(5)])
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
    assert (batches[1].tokens == data.Batches(some, 2, 2, 1, seed=3)[1].tokens).all()
