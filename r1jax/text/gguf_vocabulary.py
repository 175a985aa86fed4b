"""The vocabulary inside a GGUF file: its `tokenizer.ggml.*` metadata, made usable.

A GGUF lists tokens, their types, and merges or scores, but only names how text is cut
before merging (`tokenizer.ggml.pre`): the table here says what each name means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from r1jax.errors import TextError
from r1jax.text.vocabulary import (
    SentencePieceVocabulary,
    TokenizersVocabulary,
    Vocabulary,
    backend_or_error,
)

KEY = "tokenizer.ggml."


class TokenType(IntEnum):
    """The types of GGUF, which are sentencepiece's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class _Cut:
    """How text is cut into words before merging.

    Attributes:
        patterns: cut out one after another; what is between them stays whole.
        gpt2: whether GPT-2's own pattern comes last.
        nfc: whether text is first normalised.
        whole_words: whether a word that is a token is taken without merging.
        adds_bos: whether plain prompts begin with BOS where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    gpt2: bool = False
    nfc: bool = False
    whole_words: bool = False
    adds_bos: bool = False


def _words(digits: str) -> str:
    """Returns the pattern that Llama 3 and Qwen share but for the runs of digits."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        rf"{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_GPT2 = _Cut(gpt2=True)
_SMOLLM = _Cut((r"\p{N}",), gpt2=True)
_LLAMA = _Cut((_words(r"\p{N}{1,3}"),), whole_words=True, adds_bos=True)
_QWEN = _Cut((_words(r"\p{N}"),), nfc=True)
_DEEPSEEK = _Cut(
    (
        r"\p{N}{1,3}",
        r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+",
        (
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"
            r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
    )
)
CUTS: Mapping[str, _Cut] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _SMOLLM,
    "llama-bpe": _LLAMA,
    "llama3": _LLAMA,
    "llama-v3": _LLAMA,
    "qwen2": _QWEN,
    "deepseek-r1-qwen": _QWEN,
    "deepseek-v3": _DEEPSEEK,
}


def vocabulary_from_gguf(fields: Mapping[str, Any]) -> tuple[Vocabulary, bool]:
    """Builds the vocabulary of a GGUF file.

    Args:
        fields: the file's metadata, as plain Python values.

    Returns:
        The vocabulary, and whether plain prompts begin with BOS.

    Raises:
        TextError: a field is missing or wrong, or names an unknown kind.
    """
    model = _required(fields, "model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if model not in builders:
        raise TextError(
            f"the GGUF file's {KEY}model is {model!r}",
            why="a vocabulary of that kind cannot be built",
            fix=f"use a file with one of {', '.join(builders)}, or a tokenizer.json",
        )
    try:
        vocabulary, adds_bos = builders[model](fields)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TextError(
            f"the GGUF file's {model} vocabulary cannot be built",
            why=str(error),
            fix=f"convert the model again: its {KEY}* fields do not fit each other",
        ) from error
    return vocabulary, bool(fields.get(f"{KEY}add_bos_token", adds_bos))


def _byte_level(fields: Mapping[str, Any]) -> tuple[Vocabulary, bool]:
    name = fields.get(f"{KEY}pre", "default")
    if name not in CUTS:
        raise TextError(
            f"the GGUF file's {KEY}pre is {name!r}",
            why="how such a model cuts text into words is not known",
            fix=f"known are {', '.join(CUTS)}; or load the model's tokenizer.json",
        )
    cut = CUTS[name]
    tokens, types = _typed_tokens(fields)
    used = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != TokenType.UNUSED
    }
    # The space that parts a merge is not its first character, which may be one.
    merges = [
        (merge[:at], merge[at + 1 :])
        for merge in _required(fields, "merges")
        for at in [merge.find(" ", 1)]
    ]
    model = backend_or_error(BPE, used, merges, ignore_merges=cut.whole_words)
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(p), "isolated") for p in cut.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.gpt2),
        ]
    )
    if cut.nfc:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    for kind, add in (
        (TokenType.CONTROL, backend.add_special_tokens),
        (TokenType.USER_DEFINED, backend.add_tokens),
    ):
        named = [token for token, own in zip(tokens, types, strict=True) if own == kind]
        add([AddedToken(token, normalized=False) for token in named])
    return TokenizersVocabulary(backend, {"type": "ByteLevel"}), cut.adds_bos


def _sentencepiece(fields: Mapping[str, Any]) -> tuple[Vocabulary, bool]:
    tokens, types = _typed_tokens(fields)
    proto = ModelProto()
    scores = _required(fields, "scores")
    for token, score, kind in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=float(score), type=kind)
    # llama.cpp joins the best-scored neighbours first: sentencepiece's BPE.
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.vocab_size = len(tokens)
    proto.trainer_spec.byte_fallback = TokenType.BYTE in types
    if TokenType.UNKNOWN in types:
        proto.trainer_spec.unk_id = types.index(TokenType.UNKNOWN)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = False
    prefix = fields.get(f"{KEY}add_space_prefix", True)
    proto.normalizer_spec.add_dummy_prefix = bool(prefix)
    processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
    return SentencePieceVocabulary(processor, {}), True


def _typed_tokens(fields: Mapping[str, Any]) -> tuple[Sequence[str], list[int]]:
    """Returns the tokens and their types, all normal where the file gives none."""
    tokens = _required(fields, "tokens")
    types = fields.get(f"{KEY}token_type")
    if types is None:
        return tokens, [TokenType.NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(f"there are {len(tokens)} tokens but {len(types)} types")
    return tokens, [int(kind) for kind in types]


def _required(fields: Mapping[str, Any], name: str) -> Any:
    value = fields.get(f"{KEY}{name}")
    if value is None:
        raise TextError(
            f"the GGUF file has no {KEY}{name}",
            why="without it there is no vocabulary to encode text with",
            fix="use a file that holds its tokenizer, or a tokenizer.json",
        )
    return value
