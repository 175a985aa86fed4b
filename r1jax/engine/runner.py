"""The runner: compiled steps, and the state that they keep on the device."""

import dataclasses
import struct
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format

from r1jax import sharding
from r1jax.cache import Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine import packing
from r1jax.engine.programs import Programs, shape_of, state_shapes
from r1jax.engine.steps import Outputs
from r1jax.target import Target
from r1jax.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Message:
    """One step as every process needs it to run: what crosses to the devices.

    Attributes:
      geometry: The shape.
      counts: Whether some row has penalties, so that tokens are counted first.
      ints: The packed plan's integers.
      floats: The packed plan's floats, [6, B].
    """

    geometry: Geometry
    counts: bool
    ints: np.ndarray
    floats: np.ndarray

    def to_bytes(self) -> bytes:
        """Writes the message for a process of the same machine architecture."""
        head = _HEAD.pack(*self.geometry, self.counts, self.ints.size)
        return head + self.ints.tobytes() + self.floats.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Message":
        """Reads what `to_bytes` has written."""
        *geometry, counts, size = _HEAD.unpack_from(data)
        values = memoryview(data)[_HEAD.size :]
        ints = np.frombuffer(values[: 4 * size], np.int32)
        floats = np.frombuffer(values[4 * size :], np.float32)
        g = Geometry(*geometry)
        return cls(g, counts, ints, floats.reshape(len(packing.FLOATS), -1))


_HEAD = struct.Struct("<4i?i")


class Runner:
    """Compiles the steps and runs them, holding the device's state.

    In a program of several processes each has one, and all run the same steps in the
    same order.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: PyTree,
        pools: Pools,
        slots: int,
        columns: int,
        target: Target,
        tell: Callable[[bytes], None] | None = None,
        guesses: int = 0,
    ) -> None:
        """Takes over `params` and `pools`; nothing is compiled yet.

        Args:
          config: The model.
          params: Its parameters.
          pools: The cache.
          slots: Sequences that run at once, on all data shards.
          columns: Pages of the longest sequence.
          target: What to compile for.
          tell: Sends a step to the other processes, where there are any.
          guesses: How many tokens the prediction layer guesses at once; 0 for none.
        """
        self._tell, self._slots = tell, slots
        self._everywhere = target.everywhere
        self.params, self._pools = params, pools
        small = state_shapes(config, slots, target.placement)
        self._newest, self._counts = jax.tree.map(_zeros, small)
        weights, *state = jax.tree.map(
            shape_of, (params, pools, self._newest, self._counts)
        )
        self._programs = Programs(
            config, target, columns, weights, tuple(state), guesses
        )
        self._compiled: dict[Geometry, tuple[Any, Any]] = {}
        self._news = threading.Condition()

    def lay_out(self, geometry: Geometry) -> None:
        """Lays the parameters as the compiler wants them, judged by one shape.

        The arrays are moved one by one, and the old ones given up: read `params`
        afterwards.
        """
        self.params = jax.tree.map(_put, self.params, self._programs.lay_out(geometry))

    def compile(self, geometry: Geometry) -> None:
        """Compiles both programs of one shape."""
        done = self._programs.compile(geometry)
        with self._news:
            self._compiled[geometry] = done
            self._news.notify_all()

    def dispatch(self, plan: Any, seeds: dict[int, int]) -> Outputs:
        """Starts a step of a compiled shape; its outputs may not be computed yet."""
        ints, floats = packing.pack(
            plan, self._programs.form(plan.geometry), self._slots, seeds
        )
        counts = any(_penalized(row.sequence.sampling) for _, _, row in plan.placed())
        message = Message(plan.geometry, counts, ints, floats)
        if self._tell:
            self._tell(message.to_bytes())
        return self.run(message)

    def run(self, message: Message) -> Outputs:
        """Starts a step that was packed here or by another process.

        Waits until its shape is compiled, which here it may not be yet.
        """
        g = message.geometry
        with self._news:
            self._news.wait_for(lambda: g in self._compiled)
        run, count = self._compiled[g]
        small = (message.ints, message.floats)
        ints, floats = sharding.put(small, self._everywhere)
        if message.counts:
            self._counts = count(self._newest, self._counts, ints, floats)
        self._pools, self._newest, outputs = run(
            self.params, self._pools, self._newest, self._counts, ints, floats
        )
        return outputs


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)


def _put(leaf: Any, where: Format) -> Array:
    same = leaf.format == where
    return leaf if same else jax.device_put(leaf, where, donate=True)


def _penalized(params: Any) -> bool:
    return bool(
        params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
    )
