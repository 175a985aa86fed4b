import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from r1jax.train import settings
from r1jax.weights.save import save_hf

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory):
    """A tokenizer of single bytes, with a chat template."""
    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<bos>", "<eos>"])
    backend.save(str(folder / "tokenizer.json"))
    fields = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory):
    """A file of eight short conversations, half of them with thoughts."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    lines = []
    for i in range(8):
        answer = {"role": "assistant", "content": f"{i + i}"}
        if i % 2:
            answer["reasoning_content"] = f"{i} twice"
        question = {"role": "user", "content": f"{i}+{i}?"}
        lines.append(json.dumps({"messages": [question, answer]}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny, tiny_params):
    """Gives a family's toy model as a Hugging Face directory without a tokenizer."""

    def write(family):
        place = tmp_path_factory.mktemp(family) / "hf"
        return save_hf(tiny(family), tiny_params(family), place, dtype="float32")

    return write


@pytest.fixture(scope="session")
def model(checkpoint, tokenizer_directory):
    """A toy model with a tokenizer, as a Hugging Face directory."""
    place = checkpoint("qwen2")
    for file in tokenizer_directory.iterdir():
        shutil.copy(file, place)
    return place


@pytest.fixture
def sft(tokenizer_directory, conversations):
    """Gives settings for runs of seconds."""

    def make(model, *more):
        changes = {
            "model": str(model),
            "tokenizer": str(tokenizer_directory),
            "data.files": str(conversations),
            "data.width": 64,
            "data.rows": 2,
            "steps": 6,
            "save_every": 3,
            "optimizer.warmup_steps": 2,
            "optimizer.learning_rate": 0.003,
            "export_dtype": "float32",
        }
        words = [f"{name}={value}" for name, value in changes.items()]
        return settings.load("configs/sft.py", [*words, *more])

    return make
