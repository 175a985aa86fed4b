"""The rules of a step's rows: which ones apply, and what the device must learn of them.

The device keeps each slot's mask and biases, so that a rule that stays costs nothing:
only what differs from the slot's last one crosses.
"""

from typing import NamedTuple

import numpy as np

from r1jax.engine.guides import words_of
from r1jax.engine.packing import BIASED, MASKED
from r1jax.engine.plans import Plan, Row
from r1jax.engine.types import MAX_BIASES

Biases = tuple[tuple[int, float], ...]


class Changes(NamedTuple):
    """What a step must know of its rows' rules.

    Attributes:
      ruled: `MASKED`, `BIASED` or both, by the row's number; rows without are absent.
      masks: New masks, uint32 [n, 1 + W]: the slot, then the mask.
      biases: New biases, int32 [n, 1 + 2 K]: the slot, K tokens, and the bits of K
        float32 numbers.
    """

    ruled: dict[int, int]
    masks: np.ndarray
    biases: np.ndarray


class Mirror:
    """Knows what rules each slot has on the device."""

    def __init__(self, slots: int, vocabulary: int) -> None:
        """Begins as the device does: with zeros."""
        self._vocabulary = vocabulary
        self._masks = np.zeros((slots, words_of(vocabulary)), np.uint32)
        self._biases: list[Biases] = [()] * slots

    def update(self, plan: Plan) -> Changes:
        """Asks the rules of all rows whose next token counts.

        A sequence that may go on with no token at all becomes `stuck`; its row is then
        sampled freely, and nobody hears of it.
        """
        ruled: dict[int, int] = {}
        masks: list[int] = []
        biases: list[int] = []
        for number, _, row in plan.placed():
            sequence = row.sequence
            if not row.samples or sequence.slot is None:
                continue
            if (mask := _next_mask(row)) is not None:
                ruled[number] = MASKED
                if not np.array_equal(self._masks[sequence.slot], mask):
                    self._masks[sequence.slot] = mask
                    masks.append(sequence.slot)
            if bias := sequence.sampling.logit_bias:
                ruled[number] = ruled.get(number, 0) | BIASED
                if self._biases[sequence.slot] is not bias:
                    self._biases[sequence.slot] = bias
                    biases.append(sequence.slot)
        rows = self._masks[masks]
        slots = np.array(masks, np.uint32)[:, None]
        return Changes(ruled, np.hstack([slots, rows]), self._bias_rows(biases))

    def _bias_rows(self, slots: list[int]) -> np.ndarray:
        rows = np.zeros((len(slots), 1 + 2 * MAX_BIASES), np.int32)
        rows[:, 1 : 1 + MAX_BIASES] = self._vocabulary  # beyond it: no token
        for row, slot in zip(rows, slots, strict=True):
            ids, values = zip(*self._biases[slot], strict=True)
            row[0] = slot
            row[1 : 1 + len(ids)] = ids
            row[1 + MAX_BIASES :][: len(ids)].view(np.float32)[:] = values
        return rows


def _next_mask(row: Row) -> np.ndarray | None:
    """Returns the mask of a row's next token, which is already counted as answered."""
    sequence = row.sequence
    if sequence.rules is None:
        return None
    mask = sequence.rules.mask(sequence.answered - 1)
    if mask is None or sequence.rules.allows(mask):
        return mask
    sequence.stuck = sequence.rules.failure or "the answer's rules allow no token"
    return None
