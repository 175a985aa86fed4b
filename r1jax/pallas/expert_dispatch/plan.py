"""Who sends which rows to whom: small integers, known to every device.

A device sorts its choices (a token and one of its experts) by expert; an expert's rows
arrive sorted by sender. So what a sender has for one expert is one run of rows, with a
known place at both ends, and dispatch and combine are the same runs in two directions:

    sender 0, sorted by expert      owner of experts 2 and 3
    [e0 e0|e1|e2 e2 e2|e3]          [e2 from 0|e2 from 1|e3 from 0|e3 from 1]
              ^ leaves = 3           ^ lands = 0
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.typing import Array, Bool, Int


class Axis(NamedTuple):
    """The mesh axis (or axes, major first) over which the experts are cut."""

    name: str | tuple[str, ...]
    size: int

    @property
    def names(self) -> tuple[str, ...]:
        """The mesh axes, always a tuple."""
        return (self.name,) if isinstance(self.name, str) else self.name

    @property
    def here(self) -> Array:
        """This device's place along the axis."""
        return jax.lax.axis_index(self.name)


class Runs(NamedTuple):
    """What this device sends: to each peer in order, one run for each of its experts.

    Attributes:
      first: Where a run begins in what is sent.
      rows: Its length.
      to: Where it begins at its receiver.
      arriving: The lengths of the runs that this device receives, by sender.
    """

    first: Int[Array, " E"]
    rows: Int[Array, " E"]
    to: Int[Array, " E"]
    arriving: Int[Array, " E"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["chosen", "position", "token", "counts"],
    meta_fields=["axis"],
)
@dataclass(frozen=True)
class Plan:
    """Where every choice of this device goes, and what every device sends.

    Attributes:
      chosen: The experts, by global number; E where none is chosen.
      position: Each choice's place among this device's choices, sorted by expert.
      token: The token of each sorted choice, [T X].
      counts: Rows that each device has for each expert.
      axis: Over which the experts are cut.
    """

    chosen: Int[Array, "T X"]
    position: Int[Array, "T X"]
    token: Int[Array, " TX"]
    counts: Int[Array, "devices E"]
    axis: Axis

    @property
    def experts(self) -> int:
        """Experts on all devices."""
        return self.counts.shape[1]

    @property
    def own(self) -> int:
        """Experts on one device."""
        return self.experts // self.axis.size

    def windows(self, capacity: int) -> Int[Array, ""]:
        """Returns how many windows of `capacity` rows the fullest device needs.

        The same number on every device, so a loop over it keeps them in step.
        """
        received = self.counts.sum(0).reshape(self.axis.size, self.own).sum(1)
        return -(-received.max() // capacity)

    def sizes(self, capacity: int, window: Array | int) -> Int[Array, " own"]:
        """Returns the rows of each own expert that lie in a window."""
        ends = jnp.cumsum(self._mine(self.counts).sum(0))
        edges = jnp.clip(ends - window * capacity, 0, capacity)
        return jnp.diff(edges, prepend=jnp.clip(-window * capacity, 0, capacity))

    def taken(self, capacity: int, window: Array | int) -> Bool[Array, "T X"]:
        """Tells which of this device's choices lie in a window of their receiver."""
        me, expert = self.axis.here, jnp.minimum(self.chosen, self.experts - 1)
        shift = self._lands()[me] - self._leaves()[me] - window * capacity
        row = self.position + shift[expert]
        return (self.chosen < self.experts) & (row >= 0) & (row < capacity)

    def outward(self, capacity: int, window: Array | int) -> Runs:
        """Returns the runs from tokens to experts, for one window of the receivers."""
        leaves, lands, rows = self._clipped(capacity, window)
        me = self.axis.here
        arriving = self._mine(rows).reshape(-1)
        return Runs(leaves[me], rows[me], lands[me], arriving)

    def homeward(self, capacity: int, window: Array | int) -> Runs:
        """Returns the same runs from experts to tokens."""
        leaves, lands, rows = self._clipped(capacity, window)
        first, length, to = (self._mine(t).reshape(-1) for t in (lands, rows, leaves))
        return Runs(first, length, to, rows[self.axis.here])

    def _clipped(self, capacity: int, window: Array | int) -> tuple[Array, ...]:
        """Returns where runs leave, land, and their lengths, each [devices, E]."""
        low = window * capacity
        start = self._lands()
        begin = jnp.clip(start, low, low + capacity)
        end = jnp.clip(start + self.counts, low, low + capacity)
        return self._leaves() + begin - start, begin - low, end - begin

    def _leaves(self) -> Int[Array, "devices E"]:
        """Where each device's run for each expert begins among its sorted choices."""
        return jnp.cumsum(self.counts, axis=1) - self.counts

    def _lands(self) -> Int[Array, "devices E"]:
        """Where that run begins among the rows of the expert's owner."""
        by_owner = self.counts.T.reshape(self.axis.size, -1)  # rows: experts, senders
        begins = jnp.cumsum(by_owner, axis=1) - by_owner
        return begins.reshape(self.counts.T.shape).T

    def _mine(self, table: Int[Array, "devices E"]) -> Int[Array, "devices own"]:
        return jax.lax.dynamic_slice_in_dim(
            table, self.axis.here * self.own, self.own, axis=1
        )


def make(chosen: Int[Array, "T X"], experts: int, axis: Axis) -> Plan:
    """Sorts this device's choices and gathers all devices' counts, E integers each."""
    nobody = (chosen < 0) | (chosen >= experts)
    chosen = jnp.where(nobody, experts, chosen)
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    position = jnp.argsort(order).reshape(chosen.shape)
    mine = (flat[:, None] == jnp.arange(experts)[None]).sum(0, dtype=jnp.int32)
    counts = jax.lax.all_gather(mine, axis.name)
    return Plan(chosen, position, order // chosen.shape[1], counts, axis)
