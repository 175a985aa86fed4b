"""Conversations out of JSONL files, as tokens of which the answers are targets."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.errors import ConfigError, TextError
from r1jax.text import Tokenizer, prompt_opens_thinking
from r1jax.text.prompts import render
from r1jax.train.batch import Example, Packed, pack

Messages = Sequence[Mapping[str, Any]]


def read_jsonl(paths: Iterable[str | Path]) -> Iterator[tuple[str, Messages]]:
    """Reads lines of {"messages": [...]}, with the place of each ("FILE:LINE").

    Raises:
      ConfigError: A file cannot be read, or a line is no such object; or no line is.
    """
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path} cannot be read", str(error), "name a JSONL file in UTF-8"
            ) from None
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                place = f"{path}:{number}"
                yield place, _messages(place, line)


def _messages(place: str, line: str) -> Messages:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise _bad(place, f"it is no JSON: {error}") from None
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, list) or not messages:
        raise _bad(place, 'it has no list of "messages"')
    if not all(isinstance(m, dict) and "role" in m for m in messages):
        raise _bad(place, "a message has no role")
    if messages[-1]["role"] != "assistant":
        raise _bad(place, f"it ends with the role {messages[-1]['role']!r}")
    for message in messages:
        if message["role"] != "assistant":
            continue
        for key in ("content", "reasoning_content"):
            if not isinstance(message.get(key) or "", str):
                raise _bad(place, f"an assistant's {key} is no string")
    return messages


def _bad(place: str, why: str) -> ConfigError:
    return ConfigError(
        f"{place} cannot be learnt from",
        why,
        'write {"messages": [{"role": "user", "content": ...}, {"role": "assistant", '
        '"reasoning_content": ..., "content": ...}]} in one line',
    )


def to_example(tokenizer: Tokenizer, messages: Messages) -> Example:
    """Makes tokens of a conversation; its last answer is what is learnt.

    The prompt is exactly what the server makes of the messages before it. Thoughts
    (`reasoning_content`) stand before the answer as the model is to write them, and
    the end token behind it. Of earlier turns the template keeps what it keeps.

    Raises:
      TextError: The template refuses the messages, or the tokenizer has no end token.
    """
    if tokenizer.eos_id is None:
        raise TextError(
            "the tokenizer has no end token",
            "an answer that does not end could not be learnt",
            "name an eos_token in tokenizer_config.json",
        )
    *before, last = messages
    thought, content = last.get("reasoning_content"), last.get("content") or ""
    if thought is not None:
        prompt, _ = render(tokenizer, before, True, {})
        content = f"{thought}\n</think>\n\n{content}"
    else:
        prompt, _ = render(tokenizer, before, None, {})
        if prompt_opens_thinking(prompt):
            prompt, _ = render(tokenizer, before, False, {})
    asked = tokenizer.encode(prompt)
    answer = [*tokenizer.encode(content), tokenizer.eos_id]
    return Example(asked + answer, [0.0] * len(asked) + [1.0] * len(answer))


def examples(
    tokenizer: Tokenizer,
    paths: Sequence[str | Path],
    width: int,
    drop_longer: bool = False,
) -> tuple[list[Example], int]:
    """Reads files whole; returns what was read, and how many were left out.

    Args:
      tokenizer: The model's.
      paths: JSONL files.
      width: Tokens of the longest conversation.
      drop_longer: Whether longer ones are left out; otherwise they are refused.

    Raises:
      ConfigError: A line cannot be used, or is longer than `width` tokens.
    """
    found, dropped = [], 0
    for place, messages in read_jsonl(paths):
        try:
            example = to_example(tokenizer, messages)
        except TextError as error:
            raise ConfigError(f"{place}: {error.what}", error.why, error.fix) from None
        if len(example.tokens) > width:
            if drop_longer:
                dropped += 1
                continue
            raise ConfigError(
                f"{place} has {len(example.tokens)} tokens, and rows have {width}",
                "conversations are not cut: an answer would lose its end",
                "raise data.width, or leave such lines out with data.drop_longer=True",
            )
        found.append(example)
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, paths)) or 'data.files'} holds no conversation",
            "there is nothing to learn from",
            "name JSONL files in data.files",
        )
    return found, dropped


class Batches:
    """The batches of a run, each a function of its number alone.

    Every epoch packs all examples once, in rows that are then shuffled; what does not
    fill a batch goes on in the next one.
    """

    def __init__(
        self, some: Sequence[Example], width: int, rows: int, parts: int, seed: int
    ) -> None:
        """Packs the examples.

        Args:
          some: What is learnt from.
          width: Tokens in a row.
          rows: Rows in a part.
          parts: Parts in a batch, whose gradients are added up.
          seed: Of the order.
        """
        self.packed = pack(some, width)
        self._shape, self._seed = (parts, rows, width), seed

    def __getitem__(self, number: int) -> Packed:
        """Returns batch `number`, with leaves [parts, rows, width]."""
        parts, rows, _ = self._shape
        count, wanted = len(self.packed.tokens), parts * rows
        start = number * wanted
        epochs = range(start // count, (start + wanted - 1) // count + 1)
        order = np.concatenate(
            [np.random.default_rng([self._seed, e]).permutation(count) for e in epochs]
        )
        chosen = order[start - epochs[0] * count :][:wanted]
        fields = vars(self.packed)
        return Packed(**{k: v[chosen].reshape(self._shape) for k, v in fields.items()})
