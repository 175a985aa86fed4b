"""The two kinds of vocabulary behind a tokenizer: of `tokenizers`, of `sentencepiece`.

Both answer the same few questions; what they share is that every token stands for some
bytes, and that the bytes of a text's tokens, joined, are the text in UTF-8.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as Backend

from r1jax.errors import TextError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # how sentencepiece writes a space inside a piece


class Vocabulary(Protocol):
    """What a tokenizer asks of its vocabulary.

    Attributes:
        size: one more than the highest token id.
        special: ids of control tokens, which are no part of the text.
        named: ids of tokens that stand apart from the text's pieces, `special` ones and
            others, such as `<think>`.
        strips_leading_space: whether a text's tokens begin with a space that the text
            does not have.
        prefix: ids that the vocabulary itself puts before a plain prompt.
    """

    size: int
    special: frozenset[int]
    named: frozenset[int]
    strips_leading_space: bool
    prefix: list[int]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`; special tokens written in it become their id."""

    def token_id(self, token: str) -> int | None:
        """Returns the id of the token written so, or None."""

    def token_bytes(self, index: int) -> bytes:
        """Returns the bytes that token adds to a text; none for an unused id."""


class TokenizersVocabulary:
    """A vocabulary of the `tokenizers` library: byte-level BPE, or sentencepiece-like.

    What it decodes to is worked out here, a token at a time, as the library's own
    decoder needs the whole text and so cannot stream.

    Attributes:
        backend: the library's tokenizer.
    """

    def __init__(self, backend: Backend, decoder: Mapping[str, Any]) -> None:
        """Takes the library's tokenizer and the decoder part of its tokenizer.json.

        Raises:
            ValueError: the decoder is of another kind.
        """
        # A saved training set-up may cut or pad; a prompt must stay as it is.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        steps = decoder.get("decoders", [decoder])
        kinds = {step["type"] for step in steps}
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        if not self._byte_level and not any(map(_spells_spaces, steps)):
            raise ValueError(f"its decoder is {' and '.join(sorted(map(str, kinds)))}")
        added = backend.get_added_tokens_decoder()
        self._added = {index: token.content.encode() for index, token in added.items()}
        self._bytes: dict[int, bytes] = {}
        self.size = max([backend.get_vocab_size(), *(index + 1 for index in added)])
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.named = frozenset(added)
        self.strips_leading_space = any(map(_strips_space, steps))
        self.prefix = backend.encode("", add_special_tokens=True).ids

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token as tokenizer.json writes it, or None."""
        index: int | None = self.backend.token_to_id(token)
        return index

    def token_bytes(self, index: int) -> bytes:
        """Returns the bytes of a token; worked out once for each."""
        known = self._bytes.get(index)
        if known is None and not 0 <= index < self.size:
            return b""  # not remembered, as anybody may ask for any number
        if known is None:
            known = self._bytes[index] = self._work_out(index)
        return known

    def _work_out(self, index: int) -> bytes:
        if index in self._added:
            return self._added[index]
        piece = self.backend.id_to_token(index)
        if piece is None:
            return b""
        if not self._byte_level:
            return _piece_bytes(piece, self._byte_fallback)
        if all(letter in _BYTE_OF for letter in piece):
            return bytes(_BYTE_OF[letter] for letter in piece)
        return bytes(piece, "utf-8")


class SentencePieceVocabulary:
    """A sentencepiece model, with tokens added to it by name.

    Attributes:
        processor: the library's model.
    """

    def __init__(
        self, processor: SentencePieceProcessor, added: dict[str, tuple[int, bool]]
    ) -> None:
        """Takes the model, and of each added token its id and whether it is special."""
        self.processor = processor
        self._pieces = len(processor)
        control = {
            processor.id_to_piece(index): (index, True)
            for index in range(self._pieces)
            if processor.is_control(index)
        }
        self._named = {name: index for name, (index, _) in (control | added).items()}
        self._added = {index: name.encode() for name, index in self._named.items()}
        longest_first = sorted(self._named, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self.size = max([self._pieces, *(index + 1 for index in self._added)])
        self.special = frozenset(
            index for index, special in (control | added).values() if special
        ) | {processor.unk_id()}
        self.named = frozenset(self._added) | self.special
        first = processor.encode("x", out_type=str)[:1]
        self.strips_leading_space = any(piece.startswith(_SPACE) for piece in first)
        self.prefix = [processor.bos_id()] if processor.bos_id() >= 0 else []

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`; each stretch between named tokens on its own."""
        if not self._named:
            return list(self.processor.encode(text))
        ids: list[int] = []
        for position, part in enumerate(self._split.split(text)):
            if position % 2:
                ids.append(self._named[part])
            elif part:
                ids += self.processor.encode(part)
        return ids

    def token_id(self, token: str) -> int | None:
        """Returns the id of a piece or added token, or None."""
        if token in self._named:
            return self._named[token]
        index = int(self.processor.piece_to_id(token))
        return index if self.processor.id_to_piece(index) == token else None

    def token_bytes(self, index: int) -> bytes:
        """Returns the bytes of a token."""
        if index in self._added:
            return self._added[index]
        if not 0 <= index < self._pieces:
            return b""
        piece: str = self.processor.id_to_piece(index)
        return _piece_bytes(piece, self.processor.is_byte(index))


def vocabulary_from_json(text: str, name: str) -> TokenizersVocabulary:
    """Reads the text of a tokenizer.json; `name` is its file, for errors.

    Raises:
        TextError: it is not JSON, not a tokenizer, or of a kind that is not supported.
    """
    try:
        data = json.loads(text)
        backend = backend_or_error(Backend.from_str, text)
        return TokenizersVocabulary(backend, data.get("decoder") or {"type": "missing"})
    except (ValueError, RecursionError) as error:
        pointer = text.startswith("version https://git-lfs")
        fix = "fetch the file again; it should be the model's own"
        raise TextError(
            f"the tokenizer in {name} cannot be used",
            why="it is a Git LFS pointer, not the file" if pointer else str(error),
            fix="run git lfs pull" if pointer else fix,
        ) from error


def backend_or_error(make: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls `make` of the `tokenizers` library; its errors become ValueError.

    The library raises plain `Exception` for everything that is wrong with a file.
    """
    try:
        return make(*args, **kwargs)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ValueError(str(error)) from error


def _spells_spaces(step: Mapping[str, Any]) -> bool:
    pattern = step.get("pattern") or {}
    return step["type"] == "Metaspace" or pattern.get("String") == _SPACE


def _strips_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        added = "always" if step.get("add_prefix_space", True) else "never"
        return bool(step.get("prepend_scheme", added) != "never")
    stripped = step["type"] == "Strip" and step.get("content") == " "
    return stripped and step.get("start", 0) > 0


def _piece_bytes(piece: str, may_be_byte: bool) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece) if may_be_byte else None
    if byte:
        return bytes([int(byte[1], 16)])
    return piece.replace(_SPACE, " ").encode()


def _byte_letters() -> dict[str, int]:
    """Maps the letters of byte-level BPE to bytes.

    Printable Latin-1 stands for itself; the other 68 bytes, in order, are written with
    the letters from U+0100 on (GPT-2; Radford et al. 2019, section 2.2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_letters()
