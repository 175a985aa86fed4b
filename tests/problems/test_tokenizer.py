"""The tokenizer of r1-nano: deterministic, digit by digit, in R1's form."""

import hashlib
import json

import pytest
from tokenizers import Tokenizer as Backend

from r1jax.errors import ConfigError
from r1jax.presets import preset
from r1jax.problems import TASKS, as_messages, chats, draw, tokenizer
from r1jax.text import Tokenizer

SMALL = dict(seed=0, vocab_size=400, problems=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    tokenizer.write(folder)
    return folder


def test_the_vocabulary_is_the_one_that_r1_nano_was_trained_with(folder):
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    text = json.dumps([model["vocab"], model["merges"]], ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "81dbca93d4d7eb1d"


def test_ids_are_those_of_the_library(folder):
    ours = Tokenizer.from_directory(folder)
    theirs = Backend.from_file(str(folder / "tokenizer.json"))
    texts = [problem.question for problem in draw(TASKS, 300, 5, phrasings="all")]
    texts += [m["content"] for messages in chats(50, 5) for m in messages]
    texts += ["世界 🙂 \n\n  x", "<think>\n1+1=2\n</think>\n\nÜbertrag 1"]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


def test_every_digit_is_a_token(folder):
    ours = Tokenizer.from_directory(folder)
    for problem in draw(TASKS, 300, 5):
        ids = ours.encode(problem.thought)
        pieces = [ours.token_bytes(index).decode() for index in ids]
        assert all(len(p) == 1 for p in pieces if any(map(str.isdigit, p)))


def test_special_tokens_are_named_as_in_r1(folder):
    ours = Tokenizer.from_directory(folder)
    assert (ours.bos_id, ours.eos_id, ours.token_id(tokenizer.PAD)) == (0, 1, 2)
    assert ours.adds_bos
    assert ours.vocab_size == tokenizer.VOCAB_SIZE == preset("nano").vocab_size
    for mark in tokenizer.MARKS:
        assert ours.encode(mark) == [ours.token_id(mark)]
        assert ours.decode([ours.token_id(mark)]) == mark
    assert preset("nano").bos_id == ours.bos_id
    assert preset("nano").eos_ids == ours.eos_ids


def test_chats_are_rendered_in_the_form_of_r1(folder):
    ours = Tokenizer.from_directory(folder)
    assert ours.render_chat([{"role": "user", "content": "1+1"}]) == (
        "<｜begin▁of▁sentence｜><｜User｜>1+1<｜Assistant｜><think>\n"
    )
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be"},
        {"role": "system", "content": "brief."},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Bye"},
    ]
    assert ours.render_chat(turns, add_generation_prompt=False) == (
        "<｜begin▁of▁sentence｜>Be\n\nbrief.<｜User｜>Hi<｜Assistant｜>\n\nHello"
        "<｜end▁of▁sentence｜><｜User｜>Bye"
    )


def test_past_thoughts_are_left_out_of_a_chat(folder):
    ours = Tokenizer.from_directory(folder)
    messages = as_messages(draw(["add"], 1, 0)[0])
    rendered = ours.render_chat(messages, add_generation_prompt=False)
    assert messages[1]["reasoning_content"] not in rendered
    assert messages[1]["content"] in rendered


def test_thoughts_are_as_short_as_promised(folder):
    ours = Tokenizer.from_directory(folder)
    lengths = [len(ours.encode(p.thought)) for p in draw(TASKS, 2000, 5)]
    assert sum(lengths) / len(lengths) < 90
    assert max(lengths) <= 250


def test_a_small_one_can_be_asked_for():
    one, other = tokenizer.train(**SMALL), tokenizer.train(**SMALL)
    assert one.to_str() == other.to_str()
    assert one.get_vocab_size() == 400
    assert tokenizer.train(**(SMALL | {"seed": 1})).to_str() != one.to_str()


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(ConfigError, match="100 tokens is too small"):
        tokenizer.train(vocab_size=100)


def test_the_config_says_what_hugging_face_reads(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["bos_token"] == tokenizer.BOS
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
