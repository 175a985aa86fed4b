"""Encoding, decoding, streaming, and what goes wrong with a tokenizer's files."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from r1jax.errors import TextError
from r1jax.text import Tokenizer

QUICKLY = settings(max_examples=60, deadline=None)
MESSAGES = [{"role": "user", "content": "Hi"}]
# st.text() draws no surrogates of its own: all of these are real texts.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@pytest.fixture(scope="module", params=["tiny", "r1", "llama"])
def tokenizer(
    request: pytest.FixtureRequest, tiny: Tokenizer, real: Callable[[str], Tokenizer]
) -> Tokenizer:
    return tiny if request.param == "tiny" else real(request.param)


@given(text=TEXT)
@QUICKLY
def test_decoding_undoes_encoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@given(data=st.data())
@QUICKLY
def test_stream_equals_whole_for_any_ids(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=30))
    skip = data.draw(st.booleans())
    stream = tokenizer.detokenizer(skip_special=skip)
    pieces = [stream.push(index) for index in ids] + [stream.flush()]
    whole = b"".join(
        tokenizer.token_bytes(index)
        for index in ids
        if not (skip and index in tokenizer._vocabulary.special)
    )
    assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip)
    assert "".join(pieces) == whole.decode("utf-8", "replace")


@given(text=TEXT)
@QUICKLY
def test_never_emits_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream, shown = tokenizer.detokenizer(skip_special=False), ""
    for index in tokenizer.encode(text):
        shown += stream.push(index)
        assert text.startswith(shown)


def test_decodes_as_the_library_does(
    real_directory: Callable[[str], Path], real: Callable[[str], Tokenizer]
) -> None:
    backend = Backend.from_file(str(real_directory("r1") / "tokenizer.json"))
    ids = [(7919 * step) % 128815 for step in range(4000)]
    for at in range(0, len(ids), 8):
        part = ids[at : at + 8]
        assert real("r1").decode(part) == backend.decode(part)


def test_emoji_comes_whole_though_its_bytes_come_singly(tiny: Tokenizer) -> None:
    stream = tiny.detokenizer()
    ids = [tiny.token_id(letter) for letter in "ðŁĻĦ"]  # f0 9f 99 84 in BPE's letters
    assert [stream.push(index) for index in ids if index is not None] == [
        *("", "", ""),
        "\N{FACE WITH ROLLING EYES}",
    ]


def test_unfinished_character_comes_as_one_replacement(tiny: Tokenizer) -> None:
    ids = [index for index in map(tiny.token_id, "ðŁĻ") if index is not None]
    assert tiny.decode(ids) == "\N{REPLACEMENT CHARACTER}"


def test_cost_of_a_push_does_not_grow(tiny: Tokenizer) -> None:
    ids = tiny.encode("The quick brown fox. ") * 500
    stream = tiny.detokenizer()
    times = []
    for _ in range(8):
        start = time.perf_counter()
        for index in ids:
            stream.push(index)
        times.append(time.perf_counter() - start)
    assert min(times[4:]) < 4 * min(times[:4])


def test_special_tokens_in_text_are_single_ids(tiny: Tokenizer) -> None:
    names = ["<bos>", "<think>", "</think>", "<eos>"]
    ids = tiny.encode("a".join(names))
    assert ids[::2] == [tiny.token_id(name) for name in names]


def test_think_tags_stay_when_special_tokens_are_skipped(tiny: Tokenizer) -> None:
    ids = tiny.encode("<bos><think>x</think><eos>")
    assert tiny.decode(ids) == "<think>x</think>"
    assert tiny.decode(ids, skip_special=False) == "<bos><think>x</think><eos>"


def test_bos_is_added_to_plain_prompts_only_and_once(tiny: Tokenizer) -> None:
    plain = tiny.encode("fox")
    assert tiny.encode_prompt("fox") == [tiny.bos_id, *plain]
    assert tiny.encode_prompt("<bos>fox") == [tiny.bos_id, *plain]


def test_ids_without_a_token_have_no_bytes(tiny: Tokenizer) -> None:
    assert tiny.token_bytes(tiny.vocab_size) == tiny.token_bytes(-1) == b""
    assert tiny.token_id("no such token") is None


def test_half_a_surrogate_pair_is_refused(tiny: Tokenizer) -> None:
    with pytest.raises(TextError, match=r"position 1(.|\n)*surrogate"):
        tiny.encode("a\ud83d")


def test_saved_truncation_and_padding_are_ignored(
    tiny_directory: Path, tmp_path: Path
) -> None:
    backend = Backend.from_file(str(tiny_directory / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.decode(tokenizer.encode("The quick brown fox")) == (
        "The quick brown fox"
    )


def _configured(folder: Path, tiny_directory: Path, **config: Any) -> Tokenizer:
    shutil.copy(tiny_directory / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_directory(folder)


def test_tokens_may_be_strings_or_dicts(tiny: Tokenizer) -> None:
    assert tiny.token_id("<bos>") == tiny.bos_id is not None
    assert tiny.token_id("<eos>") == tiny.eos_id is not None
    assert tiny.eos_ids == (tiny.eos_id,)


def test_named_templates_use_the_default_and_the_tool_one(
    tiny_directory: Path, tmp_path: Path
) -> None:
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "plain"},
    ]
    tokenizer = _configured(tmp_path, tiny_directory, chat_template=named)
    assert tokenizer.render_chat(MESSAGES) == "plain"
    assert tokenizer.render_chat(MESSAGES, tools=[{"type": "function"}]) == "tools"


def test_named_templates_without_default_are_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    named = [{"name": "rag", "template": "a"}, {"name": "other", "template": "b"}]
    with pytest.raises(TextError, match=r"rag, other"):
        _configured(tmp_path, tiny_directory, chat_template=named)


def test_template_of_another_form_is_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(TextError, match="neither text nor a list"):
        _configured(tmp_path, tiny_directory, chat_template={"default": "x"})


def test_template_file_wins_over_the_config(
    tiny_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}from the file")
    tokenizer = _configured(
        tmp_path, tiny_directory, chat_template="from the config", bos_token="<bos>"
    )
    assert tokenizer.render_chat(MESSAGES) == "<bos>from the file"


def test_chat_without_template_says_so(tiny_directory: Path, tmp_path: Path) -> None:
    tokenizer = _configured(tmp_path, tiny_directory)
    assert tokenizer.chat_template is None
    with pytest.raises(TextError, match=r"no chat template(.|\n)*fix: .*jinja"):
        tokenizer.render_chat(MESSAGES)


def test_unknown_eos_is_refused_with_its_name(
    tiny_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(TextError, match="own token '</s>'"):
        _configured(tmp_path, tiny_directory, eos_token="</s>")


def test_directory_without_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"tokenizer\.json nor a tokenizer\.model"):
        Tokenizer.from_directory(tmp_path)


BROKEN = {
    "cut short": ("tokenizer.json", '{"version": "1.0", ', "tokenizer.json"),
    "not a tokenizer": ("tokenizer.json", '{"a": 1}', "tokenizer.json"),
    "not an object": ("tokenizer.json", "[]", "tokenizer.json"),
    "a pointer": (
        "tokenizer.json",
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "git lfs pull",
    ),
    "other kind": (
        "tokenizer.json",
        '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
        "decoder is missing",
    ),
    "sentencepiece": ("tokenizer.model", "not a model", "tokenizer.model"),
    "config": ("tokenizer_config.json", "{", "tokenizer_config.json"),
    "config list": ("tokenizer_config.json", "[1]", "holds no object"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named(kind: str, tmp_path: Path) -> None:
    name, text, expected = BROKEN[kind]
    (tmp_path / name).write_text(text)
    with pytest.raises(TextError) as caught:
        Tokenizer.from_directory(tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).count("\n") == 2


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TextError, match=r"tokenizer\.json cannot be used"):
        Tokenizer.from_directory(tmp_path)
