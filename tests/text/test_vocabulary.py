"""Sentencepiece: as tokenizer.model, and as a tokenizer.json that imitates it."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers
from tokenizers.models import BPE

from r1jax.text import Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "ein schöner Tag am Meer"] * 20
QUICKLY = settings(max_examples=60, deadline=None)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentencepiece model, with two tokens added beside it."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    added = {
        "1000": {"content": "<|im_end|>", "special": True},
        "1001": {"content": "<think>", "special": False},
    }
    config = {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_directory(model)


@pytest.fixture(scope="module")
def processor(model: Path) -> sentencepiece.SentencePieceProcessor:
    data = (model / "tokenizer.model").read_bytes()
    return sentencepiece.SentencePieceProcessor(model_proto=data)


@given(text=TEXT)
@QUICKLY
def test_encodes_and_decodes_as_sentencepiece(
    text: str, tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor
) -> None:
    ids = processor.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == processor.decode(ids) == text


@given(text=TEXT)
@QUICKLY
def test_stream_shows_only_what_is_whole(text: str, tokenizer: Tokenizer) -> None:
    stream, shown = tokenizer.detokenizer(), ""
    for index in tokenizer.encode(text):
        shown += stream.push(index)
        assert text.startswith(shown)
    assert shown + stream.flush() == text


def test_broken_bytes_stream_as_they_decode(tokenizer: Tokenizer) -> None:
    names = ["<0xF0>", "<0x9F>", "▁the", "<0xFF>"]
    ids = [index for index in map(tokenizer.token_id, names) if index is not None]
    stream = tokenizer.detokenizer()
    streamed = "".join(map(stream.push, ids)) + stream.flush()
    assert streamed == tokenizer.decode(ids) == "\ufffd the\ufffd"


def test_leading_space_belongs_to_the_beginning_only(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the fox")
    assert tokenizer.decode(ids) == "the fox"
    assert tokenizer.decode(ids, continues=True) == " the fox"


def test_control_and_added_tokens_are_single_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<s><think>fox<|im_end|></s>")
    assert (ids[0], ids[1], ids[-2], ids[-1]) == (1, 1001, 1000, 2)
    assert tokenizer.decode(ids) == "<think> fox"
    assert tokenizer.decode(ids, skip_special=False).startswith("<s><think>")
    assert tokenizer.eos_ids == (2, 1000)
    assert tokenizer.vocab_size == 1002
    assert tokenizer.adds_bos


def test_byte_pieces_written_in_text_are_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"


def test_unused_ids_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(999) == tokenizer.token_bytes(5000) == b""


def _imitation(folder: Path, decoder: decoders.Decoder) -> Tokenizer:
    letters = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab = letters | {"▁": 256, "h": 257, "i": 258, "hi": 259, "▁hi": 260}
    merges = [("h", "i"), ("▁", "hi")]
    backend = Backend(BPE(vocab, merges, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoder
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_directory(folder)


def test_json_imitation_falls_back_to_bytes_and_strips_one_space(
    tmp_path: Path,
) -> None:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer = _imitation(tmp_path, decoder)
    assert tokenizer.encode("hi hi") == [260, 260]
    for text in ("hi hi", "  hi", "hé 🙂 hi"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_json_with_metaspace_strips_unless_told_never(tmp_path: Path) -> None:
    always = _imitation(tmp_path, decoders.Metaspace())
    assert always.decode([260, 260]) == "hi hi"
    never = _imitation(tmp_path, decoders.Metaspace(prepend_scheme="never"))
    assert never.decode([260, 260]) == " hi hi"
