"""Writes the tokenizer of a GGUF file as the files that transformers reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing

from r1jax.text.gguf_vocabulary import KEY, vocabulary_from_gguf
from r1jax.text.vocabulary import SentencePieceVocabulary, TokenizersVocabulary


def write_tokenizer(fields: Mapping[str, Any], folder: Path) -> None:
    """Writes tokenizer.json or tokenizer.model, and tokenizer_config.json.

    Args:
      fields: The file's `tokenizer.*` metadata.
      folder: Where to write.

    Raises:
      TextError: A field is missing or wrong, or names an unknown kind.
    """
    vocabulary, adds_bos = vocabulary_from_gguf(fields)
    tokens = fields[f"{KEY}tokens"]
    config: dict[str, Any] = {"add_bos_token": adds_bos}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown")):
        index = fields.get(f"{KEY}{key}_token_id")
        if index is not None and 0 <= index < len(tokens):
            config[f"{name}_token"] = tokens[index]
    first = config.get("bos_token") if adds_bos else None
    if isinstance(vocabulary, TokenizersVocabulary):
        if first is not None:
            index = fields[f"{KEY}bos_token_id"]
            vocabulary.backend.post_processor = TemplateProcessing(
                single=f"{first}:0 $A:0", special_tokens=[(first, index)]
            )
        vocabulary.backend.save(str(folder / "tokenizer.json"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    elif isinstance(vocabulary, SentencePieceVocabulary):
        model = vocabulary.processor.serialized_model_proto()
        (folder / "tokenizer.model").write_bytes(model)
        config["tokenizer_class"] = "LlamaTokenizer"
    template = fields.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8"
    )
