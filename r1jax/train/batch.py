"""Sequences of tokens become rows of equal width, several sequences to a row."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import numpy as np

from r1jax.errors import ConfigError
from r1jax.typing import Array, Float, Int


class Example(NamedTuple):
    """One sequence to learn from.

    Attributes:
      tokens: Its tokens.
      weights: How much each counts as a target; the first one cannot be predicted.
    """

    tokens: list[int]
    weights: list[float]


@flax.struct.dataclass
class Packed:
    """A batch: rows of whole sequences, filled up with padding.

    Attributes:
      tokens: Token ids.
      segments: Which sequence of its row each token is of, from 1; 0 is padding.
      positions: Place within the sequence.
      weights: How much each token counts as a target; 0 for prompts, for the first
        token of a sequence and for padding.
    """

    tokens: Int[Array, "B S"]
    segments: Int[Array, "B S"]
    positions: Int[Array, "B S"]
    weights: Float[Array, "B S"]


def pack(sequences: Sequence[Example], width: int, rows: int | None = None) -> Packed:
    """Packs sequences by best fit, longest first: each where least room is left over.

    Args:
      sequences: None longer than `width`.
      width: Tokens in a row.
      rows: How many rows to return, empty ones among them; None for as many as
        it takes.

    Returns:
      NumPy arrays [rows, width].

    Raises:
      ConfigError: A sequence is longer than a row, or more rows are needed than asked.
    """
    longest = max((len(s.tokens) for s in sequences), default=0)
    if longest > width:
        raise ConfigError(
            f"a sequence of {longest} tokens does not fit a row of {width}",
            "sequences are not cut: an answer would lose its end",
            "raise data.width, or leave the sequence out",
        )
    bins = best_fit([len(s.tokens) for s in sequences], width)
    if rows is not None and len(bins) > rows:
        raise ConfigError(
            f"{len(sequences)} sequences take {len(bins)} rows of {width} tokens",
            f"{rows} rows were asked for",
            "raise the number of rows, or pack fewer sequences",
        )
    count = len(bins) if rows is None else rows
    ids, segments, positions = np.zeros((3, count, width), np.int32)
    counts = np.zeros((count, width), np.float32)
    for row, members in enumerate(bins):
        start = 0
        for number, index in enumerate(members, 1):
            tokens, weights = sequences[index]
            here = slice(start, start + len(tokens))
            ids[row, here] = tokens
            segments[row, here] = number
            positions[row, here] = np.arange(len(tokens))
            counts[row, here] = weights
            counts[row, start : start + 1] = 0  # nothing comes before it
            start = here.stop
    return Packed(ids, segments, positions, counts)  # type: ignore[arg-type]


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Returns the sequences of each row, by number; best-fit decreasing."""
    room: list[list[int]] = [[] for _ in range(width + 1)]  # rows by what is left
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[index]
        left = next((r for r in range(need, width + 1) if room[r]), None)
        if left is None:
            rows.append([])
            row, left = len(rows) - 1, width
        else:
            row = room[left].pop()
        rows[row].append(index)
        room[left - need].append(row)
    return rows


def fill(packed: Packed) -> float:
    """Returns the share of the tokens that are no padding."""
    return float((np.asarray(packed.segments) > 0).mean())
