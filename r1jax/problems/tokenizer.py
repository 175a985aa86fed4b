"""The tokenizer of r1-nano: byte-level BPE learnt from the problems themselves.

Special tokens and chat template have the names and the form of DeepSeek-R1's. Every
digit is a token of its own; a sign or a word before a number takes the space between.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from r1jax.errors import ConfigError
from r1jax.problems.chats import chats
from r1jax.problems.drawing import draw
from r1jax.problems.problem import as_messages
from r1jax.problems.tasks import TASKS

VOCAB_SIZE = 768
SMALLEST = 320  # the 256 bytes and the named tokens, and some room for merges
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
MARKS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")

# Digits, line ends, words, other signs: each with a space before it, words and signs
# also with one behind if a digit follows.
_PIECES = Regex(
    r"\p{N}|\n+| ?\p{L}+(?: (?=\p{N}))?| ?[^\s\p{L}\p{N}]+(?: (?=\p{N}))?|\s+"
)
# BOS, the system text, then the turns; of past answers only what follows the thinking.
_TEMPLATE = (
    "{{ bos_token }}"
    "{% set system = messages | selectattr('role', 'equalto', 'system') "
    "| map(attribute='content') | list %}"
    "{{ system | join('\\n\\n') }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def train(
    seed: int = 0, vocab_size: int = VOCAB_SIZE, problems: int = 20_000
) -> Tokenizer:
    """Learns the merges from problems of training and from conversations.

    Args:
        seed: of the problems; the same seed gives the same tokenizer.
        vocab_size: tokens in all, with special ones.
        problems: how many problems; there is one conversation to ten of them.

    Raises:
        ConfigError: the vocabulary would not hold the bytes.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(
            f"a vocabulary of {vocab_size} tokens is too small",
            "it holds 256 bytes, the special tokens and some merges",
            f"ask for {SMALLEST} or more",
        )
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKS),
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, problems), trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return tokenizer


def write(directory: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Writes tokenizer.json and tokenizer_config.json, with the chat template.

    Args:
        directory: where; it is made if it is not there.
        tokenizer: what `train` gave; if None it is trained.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or train()).save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": _TEMPLATE,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _texts(seed: int, problems: int) -> Iterator[str]:
    """Yields what the model will read and write."""
    for problem in draw(TASKS, problems, seed):
        yield from _words(as_messages(problem))
    for messages in chats(problems // 10, seed):
        yield from _words(messages)


def _words(messages: list[dict[str, str]]) -> Iterator[str]:
    for message in messages:
        if "reasoning_content" in message:
            yield message["reasoning_content"]
        yield message["content"]
