"""Answers that must fit a form: a JSON schema, a pattern, a choice or a grammar.

A form is written in the language of `llguidance`, which reads JSON schemas, regular
expressions and Lark grammars and says for any beginning of a text which tokens may come
next. `Grammars` compiles forms for one model's tokens; a `GrammarGuide` follows one
answer. Forms come from strangers: what compiling and following one may cost is bounded.
"""

import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from r1jax.errors import RequestError
from r1jax.text.masks import TokenMasks
from r1jax.text.schemas import closed

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_Result = TypeVar("_Result")
_LOG = logging.getLogger(__name__)
# Between the parts of a JSON text: at most one blank, or a line end and its indent.
_WHITESPACE = r"[ \t]|\r?\n[ \t]{0,32}"
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_EMPTY = "there is no text that fits it"
_CACHED = 64  # compiled grammars that are kept
MAX_SOURCE = 256 * 1024  # characters of one grammar
# A schema of that length can nest 16,000 deep, each level some 5 KB of the compiler's
# stack; past its end the process would die.
_STACK = 256 * 1024 * 1024
_STACK_LOCK = threading.Lock()


def json_schema(schema: Mapping[str, Any] | bool, lenient: bool = False) -> str:
    """Writes the grammar of JSON texts that fit a schema.

    Args:
        schema: JSON Schema, draft 2020-12; `oneOf` is taken for `anyOf`, and objects
            have the properties that are named (see `schemas.closed`).
        lenient: passes over keywords that cannot be enforced, which otherwise are
            errors.
    """
    return f"start: {json_rule(schema, lenient)}"


def json_rule(schema: Mapping[str, Any] | bool, lenient: bool = False) -> str:
    """Writes the same as a piece of a Lark grammar; see `json_schema`."""
    # A schema may carry options of its own for the compiler; ours replace them.
    how = {
        "whitespace_pattern": _WHITESPACE,
        "coerce_one_of": True,
        "lenient": lenient,
    }
    whole = schema if isinstance(schema, Mapping) else {"allOf": [schema]}
    try:
        text = json.dumps({**closed(whole), "x-guidance": how})
    except RecursionError:
        raise _unusable("the JSON schema", "it is nested too deeply") from None
    return f"%json {text}"


def regex(pattern: str) -> str:
    r"""Writes the grammar of texts that a regular expression matches as a whole.

    The pattern is in the syntax of Rust's `regex` (no back references), save that `\d`
    means the digits 0 to 9 only.
    """
    return f"start: /{_library().regex_to_lark(pattern, 'd')}/"


def choice(texts: Sequence[str]) -> str:
    """Writes the grammar of exactly these texts."""
    return "start: " + " | ".join(map(literal, texts))


def literal(text: str) -> str:
    """Writes a text as a piece of a Lark grammar."""
    return json.dumps(text)


def lark(text: str) -> str:
    """Takes a Lark grammar, or one in GBNF or EBNF (`root ::= ...`), which it turns.

    Raises:
        RequestError: it is in neither notation.
    """
    if not _GBNF.search(text):
        return text
    try:
        return str(_library().grammar_from("gbnf", text))
    except ValueError as error:
        raise _unusable("the grammar", str(error)) from error


class GrammarGuide:
    """Follows one answer through a grammar (an `engine.guides.Guide`).

    Attributes:
        failure: why the grammar could not be followed to its end, or None. The answer
            then stops where it is.
    """

    binds = True

    def __init__(self, matcher: "LLMatcher", masks: TokenMasks) -> None:
        """Takes a fresh matcher, and what makes the model's masks."""
        self._matcher = matcher
        self._ends, self._ending = masks.ends, masks.ending
        self._ended = False
        self.failure: str | None = None

    def mask(self) -> np.ndarray:
        """Returns the mask of the next token; an end token where the text may end."""
        if not self._ended:
            bits = self._matcher.compute_bitmask()
            if not self._broken():
                return np.frombuffer(bits, np.uint32)[: len(self._ending)]
        return self._ending

    def advance(self, token: int) -> None:
        """Takes the next token."""
        if self._ended or token in self._ends:
            self._ended = True
        elif not self._matcher.consume_token(token):
            self._broken()

    def _broken(self) -> bool:
        if self._matcher.is_error():
            self._ended = True
            self.failure = _shortened(self._matcher.get_error())
            _LOG.warning("a grammar was given up: %s", self.failure)
        return self._ended


class Grammars:
    """Compiles grammars for one model's tokens, and keeps those used last.

    Tokens that the tokenizer names apart (control tokens, `<think>`, the marks of tool
    calls) are never part of a constrained text, unless the grammar names them.

    Attributes:
        masks: makes masks of the model's tokens.
    """

    def __init__(self, masks: TokenMasks) -> None:
        """Takes the model's tokens; nothing is compiled yet."""
        self.masks = masks
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def guide(self, source: str, name: str = "the grammar") -> GrammarGuide:
        """Returns a guide through a grammar that one of this module's writers wrote.

        Args:
            source: the grammar.
            name: what errors call it.

        Raises:
            RequestError: the grammar is wrong, too large, or has no text at all.
        """
        with self._lock:
            known = self._compiled.get(source)
            if known is not None:
                self._compiled.move_to_end(source)
        if known is None:
            known = self._compile(source, name)
            with self._lock:
                self._compiled[source] = known
                while len(self._compiled) > _CACHED:
                    self._compiled.popitem(last=False)
        return GrammarGuide(known.deep_copy(), self.masks)

    def _compile(self, source: str, name: str) -> "LLMatcher":
        if len(source) > MAX_SOURCE:
            why = f"written out it has {len(source)} characters, more than {MAX_SOURCE}"
            raise _unusable(name, why)
        if not self.masks.ends:
            raise _unusable(name, "the model has no token that ends an answer")
        library = _library()
        tokens = self._llg_tokens(library)
        limits = library.LLParserLimits(
            step_lexer_fuel=100_000,
            step_max_items=20_000,
            max_lexer_states=50_000,
            max_grammar_size=200_000,
            verbose_errors=False,
        )

        def compile_it() -> "tuple[LLMatcher, bytes]":
            matcher = library.LLMatcher(tokens, source, log_level=0, limits=limits)
            return matcher, matcher.compute_bitmask()

        matcher, bits = _on_deep_stack(compile_it)
        if matcher.is_error():
            raise _unusable(name, _shortened(matcher.get_error()))
        ending = self.masks.ending
        more = np.frombuffer(bits, np.uint32)[: len(ending)] & ~ending
        if not matcher.is_accepting() and not more.any():
            raise _unusable(name, _EMPTY)
        return matcher

    def _llg_tokens(self, library: Any) -> "LLTokenizer":
        with self._lock:
            if self._tokens is None:
                words = library.TokenizerWrapper(_Words(self.masks))
                ends = sorted(self.masks.ends)
                self._tokens = library.LLTokenizer(words, eos_token=ends)
            return self._tokens


class _Words:
    """The vocabulary as `llguidance` asks for it; ids without a token are empty."""

    def __init__(self, masks: TokenMasks) -> None:
        tokenizer, ends = masks.tokenizer, masks.ends
        self.tokens = [tokenizer.token_bytes(index) for index in range(masks.size)]
        named = {index for index in tokenizer.named_ids if index < masks.size}
        self._named = named | ends
        self.special_token_ids = sorted(self._named)
        self.eos_token_id, self.bos_token_id = min(ends), tokenizer.bos_id
        self._encode = tokenizer.encode

    def __call__(self, data: bytes) -> list[int]:
        """Returns the tokens of a text that is forced; a mark in it is spelled out."""
        return [
            part for index in self._encode(data.decode()) for part in self._spell(index)
        ]

    def _spell(self, index: int) -> list[int]:
        if index not in self._named:
            return [index]
        letters = self.tokens[index].decode()
        return [part for letter in letters for part in self._encode(letter)]


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise RequestError(
            "answers cannot be held to a form here",
            "the package llguidance is not installed",
            'install it: python -m pip install "r1jax[serve]"',
        ) from error
    return llguidance


def _on_deep_stack(work: Callable[[], _Result]) -> _Result:
    """Calls `work` on a thread whose stack holds the deepest nesting allowed."""
    with ThreadPoolExecutor(1) as pool:
        with _STACK_LOCK:
            before = threading.stack_size(_STACK)
            try:
                future = pool.submit(work)  # starts the thread
            finally:
                threading.stack_size(before)
        return future.result()


def _shortened(message: str) -> str:
    """Returns a message of the library on one line, without the source it repeats."""
    said = re.split(r"\n\s*\d+ \| |<non-verbose/>", message, maxsplit=1)[0]
    said = re.sub(r"^at .*: failed to compile JSON schema: ", "", said)
    if "NoExtension" in said:
        return _EMPTY
    return " ".join(said.split())[:300] or "no reason was given"


def _unusable(name: str, why: str) -> RequestError:
    return RequestError(
        f"{name} cannot be used",
        why,
        "send one that llguidance understands; docs/structured.md says which",
    )
