"""Text to token ids and back, whole or while the ids still come.

A `Tokenizer` is read from a Hugging Face directory or from the metadata of a GGUF file.
It never adds special tokens on its own: a rendered chat already holds its BOS.
"""

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from r1jax.errors import TextError
from r1jax.text.chat import ChatTemplate
from r1jax.text.gguf_vocabulary import vocabulary_from_gguf
from r1jax.text.vocabulary import (
    SentencePieceVocabulary,
    Vocabulary,
    vocabulary_from_json,
)

# Tokens that end a turn wherever a vocabulary has them, beside its own eos.
TURN_ENDS = (
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
)


class Tokenizer:
    """Encodes and decodes one model's text.

    Attributes:
        bos_id: the token that begins a text, if the model has one.
        eos_id: the token that ends an answer, if the model has one.
        eos_ids: every token that ends an answer, `eos_id` first.
        adds_bos: whether the model expects BOS before a plain prompt.
        chat_template: how the model wants a chat written, if it says so.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        adds_bos: bool = False,
        chat_template: ChatTemplate | None = None,
        more_eos_ids: Iterable[int] = (),
    ) -> None:
        """Joins a vocabulary and what else the model says about its text."""
        self._vocabulary = vocabulary
        self.bos_id, self.eos_id = bos_id, eos_id
        self.adds_bos, self.chat_template = adds_bos, chat_template
        ends = [eos_id, *more_eos_ids, *map(vocabulary.token_id, TURN_ENDS)]
        self.eos_ids = tuple(dict.fromkeys(end for end in ends if end is not None))

    @classmethod
    def from_directory(cls, path: str | Path) -> "Tokenizer":
        """Reads tokenizer.json, else tokenizer.model, with tokenizer_config.json.

        Raises:
            TextError: no tokenizer is there, or a file of it cannot be used.
        """
        folder = Path(path)
        config = _read_config(folder / "tokenizer_config.json")
        vocabulary = _read_vocabulary(folder, config)
        names = [_token_name(config.get(key)) for key in ("bos_token", "eos_token")]
        bos_id, eos_id = (_known_id(vocabulary, name, folder) for name in names)
        adds_bos = bos_id is not None and vocabulary.prefix[:1] == [bos_id]
        return cls(
            vocabulary,
            bos_id=bos_id,
            eos_id=eos_id,
            adds_bos=bool(config.get("add_bos_token", adds_bos)),
            chat_template=_read_template(folder, config, *names),
        )

    @classmethod
    def from_gguf_fields(cls, fields: Mapping[str, Any]) -> "Tokenizer":
        """Builds the tokenizer of a GGUF file from its `tokenizer.*` metadata.

        Raises:
            TextError: a field is missing or wrong, or names an unknown kind.
        """
        vocabulary, adds_bos = vocabulary_from_gguf(fields)
        bos, eos, eot, eom = (
            _field_id(fields, name, vocabulary.size)
            for name in ("bos", "eos", "eot", "eom")
        )
        template, source = None, fields.get("tokenizer.chat_template")
        if source is not None:
            template = ChatTemplate(
                source,
                _text(vocabulary, bos),
                _text(vocabulary, eos),
                tool_source=fields.get("tokenizer.chat_template.tool_use"),
            )
        return cls(
            vocabulary,
            bos_id=bos,
            eos_id=eos,
            adds_bos=adds_bos,
            chat_template=template,
            more_eos_ids=[index for index in (eot, eom) if index is not None],
        )

    @property
    def vocab_size(self) -> int:
        """Returns one more than the highest id; a model's own may be padded higher."""
        return self._vocabulary.size

    @property
    def named_ids(self) -> frozenset[int]:
        """Returns the tokens that no ordinary text has: control tokens and marks."""
        return self._vocabulary.named

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, adding none; tokens named in it become their id.

        Raises:
            TextError: the text holds half of a surrogate pair, which is no character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"the text holds {text[error.start]!r} at position {error.start}",
                why="that is half of a surrogate pair, which is no character",
                fix="cut the text between characters, not inside one",
            ) from error
        return self._vocabulary.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a plain prompt, with BOS first if the model expects it."""
        ids = self.encode(text)
        if self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Renders messages by the model's chat template; see `ChatTemplate.render`.

        Raises:
            TextError: the model has no chat template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise TextError(
                "the model has no chat template",
                why="its tokenizer does not say how a chat is written",
                fix="put one beside it as chat_template.jinja, or send a plain prompt",
            )
        return self.chat_template.render(messages, **options)

    def decode(
        self, ids: Iterable[int], skip_special: bool = True, continues: bool = False
    ) -> str:
        """Returns the text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids; those without a token add nothing.
            skip_special: whether control tokens are left out (`<think>` is not one).
            continues: whether the ids follow on earlier text, so that a sentencepiece
                vocabulary's first space is a space and not the mark of a beginning.
        """
        detokenizer = self.detokenizer(skip_special, continues)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def detokenizer(
        self, skip_special: bool = True, continues: bool = False
    ) -> "Detokenizer":
        """Returns a fresh `Detokenizer`, with the arguments of `decode`."""
        return Detokenizer(self._vocabulary, skip_special, continues)

    def token_bytes(self, index: int) -> bytes:
        """Returns the bytes one token adds to a text; none for an id without token."""
        return self._vocabulary.token_bytes(index)

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token as the vocabulary writes it, or None."""
        return self._vocabulary.token_id(token)


class Detokenizer:
    """Turns ids into text one by one, never showing half a character.

    Its pieces, joined, are `Tokenizer.decode` of all the ids. It holds at most three
    bytes, so an id costs the same however long the text is.
    """

    def __init__(
        self, vocabulary: Vocabulary, skip_special: bool, continues: bool
    ) -> None:
        """Starts at the beginning of a text, or after some if it `continues` one."""
        self._vocabulary = vocabulary
        self._skipped = vocabulary.special if skip_special else frozenset()
        self._strips = vocabulary.strips_leading_space and not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Returns the characters that this token completes, if any."""
        if index in self._skipped:
            return ""
        data = self._vocabulary.token_bytes(index)
        if self._strips and data:
            data = data.removeprefix(b" ")
            self._strips = False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Returns what is left of a character that was never completed."""
        return self._decoder.decode(b"", final=True)


def _read_config(path: Path) -> dict[str, Any]:
    """Reads tokenizer_config.json; one that is not there says nothing."""
    if not path.exists():
        return {}
    try:
        config = json.loads(_read_text(path))
    except ValueError as error:
        raise _unusable(path, error) from error
    if not isinstance(config, dict):
        raise _unusable(path, "it holds no object")
    return config


def _read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.exists():
        return vocabulary_from_json(_read_text(fast), str(fast))
    if not slow.exists():
        raise TextError(
            f"there is no tokenizer in {folder}",
            why="it has neither a tokenizer.json nor a tokenizer.model",
            fix="copy the tokenizer's files there from the model's repository",
        )
    try:
        processor = SentencePieceProcessor(model_proto=slow.read_bytes())
        return SentencePieceVocabulary(processor, _added_tokens(folder, config))
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise _unusable(slow, error) from error


def _added_tokens(
    folder: Path, config: Mapping[str, Any]
) -> dict[str, tuple[int, bool]]:
    """Returns the tokens added to a tokenizer.model: id, and whether special."""
    old = _read_config(folder / "added_tokens.json")
    added = {name: (int(index), False) for name, index in old.items()}
    for index, token in config.get("added_tokens_decoder", {}).items():
        added[token["content"]] = int(index), bool(token.get("special"))
    return added


def _token_name(value: Any) -> str | None:
    """Reads a token of tokenizer_config.json, a string or an AddedToken's dict."""
    name = value.get("content") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def _known_id(vocabulary: Vocabulary, name: str | None, folder: Path) -> int | None:
    if name is None:
        return None
    index = vocabulary.token_id(name)
    if index is None:
        raise TextError(
            f"the tokenizer in {folder} does not know its own token {name!r}",
            why="tokenizer_config.json names it, but the vocabulary has no such token",
            fix="use tokenizer files that belong together",
        )
    return index


def _field_id(fields: Mapping[str, Any], name: str, size: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    index = fields.get(key)
    if index is not None and not 0 <= int(index) < size:
        raise TextError(
            f"the GGUF file's {key} is {index}",
            why=f"the vocabulary has the ids 0 to {size - 1}",
            fix="convert the model again",
        )
    return None if index is None else int(index)


def _text(vocabulary: Vocabulary, index: int | None) -> str | None:
    if index is None:
        return None
    return vocabulary.token_bytes(index).decode("utf-8", "replace")


def _read_template(
    folder: Path, config: Mapping[str, Any], bos: str | None, eos: str | None
) -> ChatTemplate | None:
    """Reads chat_template.jinja, else the config's template or named templates."""
    beside = folder / "chat_template.jinja"
    found = _read_text(beside) if beside.exists() else config.get("chat_template")
    if found is None or isinstance(found, str):
        return None if found is None else ChatTemplate(found, bos, eos)
    path = folder / "tokenizer_config.json"
    try:
        named = {entry["name"]: entry["template"] for entry in found}
    except (LookupError, TypeError) as error:
        raise _unusable(path, "its chat_template is neither text nor a list") from error
    only = next(iter(named.values())) if len(named) == 1 else None
    default = named.get("default", only)
    if default is None:
        why = f"of its chat templates ({', '.join(named)}) none is the default"
        raise _unusable(path, why)
    return ChatTemplate(default, bos, eos, tool_source=named.get("tool_use"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, why: object) -> TextError:
    return TextError(
        f"{path} cannot be used",
        why=str(why),
        fix="fetch the file again from the model's repository",
    )
