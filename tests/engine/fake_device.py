"""A device without arrays, so that the host's part of the engine is tested by itself.

`FakeDevice` keeps its cache page by page as the real one does, and its model is a
function of the whole context as read back from those pages: a page lost, overwritten
or stale makes a wrong token, and one that is read before it is filled fails.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.engine.pages import Pages
from r1jax.engine.plans import Plan

VOCABULARY = 50


def next_token(context: tuple[int, ...]) -> int:
    """The fake model."""
    return hash(context) % VOCABULARY


class FakeDevice:
    """Runs plans at once; `simple_answer` is what must come out."""

    def __init__(self, pages: Sequence[Pages], slots: int) -> None:
        """Takes the pages of each data shard, to know where they lie."""
        self.pages = pages
        self.page_size = pages[0].page_size
        self.cache: dict[tuple[int, ...], int] = {}
        self.newest = [-1] * slots

    def run(self, plan: Plan) -> np.ndarray:
        """Feeds a step; returns what follows each token asked, -1 where none counts."""
        tokens = np.full(len(plan.shares) * plan.geometry.asked, -1)
        sampled = {}
        for _, _, row in plan.placed():
            known = row.sequence.tokens[: row.start]
            places = [self._place(row.sequence, at) for at in range(len(known))]
            assert [self.cache[place] for place in places] == known
        for _, _, row in plan.placed():
            sequence = row.sequence
            assert sequence.slot is not None
            fed = [*sequence.tokens[row.start :], *row.drafts][: row.count]
            fed = fed or [self.newest[sequence.slot]]
            for at, token in enumerate(fed, row.start):
                self.cache[self._place(sequence, at)] = token
        for _, place, row in plan.sampled():
            end = row.start + row.count
            places = [self._place(row.sequence, at) for at in range(end)]
            context = tuple(self.cache[place] for place in places)
            for i in range(1 + len(row.drafts)):
                token = next_token(context[: end - len(row.drafts) + i])
                sampled[row.sequence.slot] = tokens[place + i] = token
        for slot, token in sampled.items():
            self.newest[slot] = int(token)
        return tokens

    def _place(self, sequence: Any, at: int) -> tuple[int, ...]:
        column = at // self.page_size
        device = self.pages[sequence.shard].device(sequence.home, column)
        page = sequence.pages[column]
        return sequence.shard, device, page, at % self.page_size


def simple_answer(prompt: list[int], tokens: int) -> list[int]:
    """The fake model's answer, one token after the other."""
    context = list(prompt)
    for _ in range(tokens):
        context.append(next_token(tuple(context)))
    return context[len(prompt) :]
