"""The runner: compiled steps, and the state that they keep on the device."""

import dataclasses
import math
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format

from r1jax import sharding
from r1jax.cache import Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine import packing
from r1jax.engine.plans import Plan, Row, Share
from r1jax.engine.programs import Programs, Writers, shape_of, state_shapes
from r1jax.engine.rules import Mirror
from r1jax.engine.steps import Outputs
from r1jax.errors import ConfigError
from r1jax.target import Target
from r1jax.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Message:
    """One step as every process needs it to run: what crosses to the devices.

    Attributes:
      geometry: The shape.
      counts: Whether some row has penalties, so that tokens are counted first.
      runs: False where tokens are only counted: the cache has them.
      scores: Whether the chunks' tokens are judged.
      ints: The packed plan's integers.
      floats: The packed plan's floats, [6, B].
      masks: Masks to be written first, uint32 [n, 1 + W]; see `rules.Changes`.
      biases: Biases to be written first, int32 [n, 1 + 2 K].
    """

    geometry: Geometry
    counts: bool
    runs: bool
    scores: bool
    ints: np.ndarray
    floats: np.ndarray
    masks: np.ndarray
    biases: np.ndarray

    def to_bytes(self) -> bytes:
        """Writes the message for a process of the same machine architecture."""
        arrays = self.ints, self.floats, self.masks, self.biases
        sizes = [size for x in arrays for size in x.shape]
        head = _HEAD.pack(*self.geometry, self.counts, self.runs, self.scores, *sizes)
        return head + b"".join(x.tobytes() for x in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Message":
        """Reads what `to_bytes` has written."""
        *geometry, counts, runs, scores, size, b, f, m, words, n, pairs = (
            _HEAD.unpack_from(data)
        )
        start, arrays = _HEAD.size, []
        for dtype, shape in (
            (np.int32, (size,)),
            (np.float32, (b, f)),
            (np.uint32, (m, words)),
            (np.int32, (n, pairs)),
        ):
            count = math.prod(shape)
            arrays.append(np.frombuffer(data, dtype, count, start).reshape(shape))
            start += 4 * count
        return cls(Geometry(*geometry), counts, runs, scores, *arrays)


_HEAD = struct.Struct(f"<{len(Geometry._fields)}i3?7i")


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
        """Takes over `params` and `pools`; no step is compiled yet.

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
        self._newest, self._counts, self._rules = jax.tree.map(_zeros, small)
        weights, *state = jax.tree.map(
            shape_of, (params, pools, self._newest, self._counts, self._rules)
        )
        self._programs = Programs(
            config, target, columns, weights, tuple(state), guesses
        )
        self._write_masks, self._write_biases = self._programs.compile_rules()
        self._mirror = Mirror(slots, config.vocab_size)
        self._compiled: dict[tuple[Geometry, bool], tuple[Any, Any]] = {}
        self._news = threading.Condition()
        self._turn = threading.Lock()  # steps are started one after the other
        self._bound = False

    def lay_out(self, geometry: Geometry) -> None:
        """Lays the parameters as the compiler wants them, judged by one shape.

        The arrays are moved one by one, and the old ones given up: read `params`
        afterwards.
        """
        self.params = jax.tree.map(_put, self.params, self._programs.lay_out(geometry))

    def bind(self, params: PyTree) -> None:
        """Runs the steps to come with other parameters; compiles nothing.

        Args:
          params: Of the same tree, shapes and dtypes. An array that lies as the old one
            did is shared with the caller, others are copied.

        Raises:
          ConfigError: They differ in more than values.
        """
        old, new = (jax.tree.map(_form, tree) for tree in (self.params, params))
        if old != new:
            raise ConfigError(
                "the parameters to bind are not like those of the engine",
                f"{_first_difference(old, new)}; its steps are compiled for the old",
                "bind parameters of the same model, arranged as the engine's",
            )
        with self._turn:
            self._bound = True
            self.params = jax.tree.map(
                lambda now, then: jax.device_put(now, then.format), params, self.params
            )

    def compile(self, geometry: Geometry, scores: bool = False) -> None:
        """Compiles both programs of one shape, or of its form that judges prompts."""
        done = self._programs.compile(geometry, scores)
        with self._news:
            self._compiled[geometry, scores] = done
            self._news.notify_all()

    def warm(self, geometry: Geometry, scores: bool = False) -> None:
        """Runs a step of padding alone: a program's first run takes longer than others.

        Any thread may ask. Not done with parameters that were bound, as the caller may
        have given them up since.
        """
        with self._turn:
            if self._bound:
                return
            outputs = self._start(Plan([], geometry, scores), {}, runs=True)
        jax.block_until_ready(outputs)

    def dispatch(self, plan: Plan, seeds: dict[int, int]) -> Outputs:
        """Starts a step of a compiled shape; its outputs may not be computed yet."""
        with self._turn:
            for found in _found(plan):
                self._start(found, seeds, runs=False)
            return self._start(plan, seeds, runs=True)

    def _start(self, plan: Plan, seeds: dict[int, int], runs: bool) -> Outputs:
        form = self._programs.form(plan.geometry, plan.scores)
        ruled, masks, biases = self._mirror.update(plan)
        ints, floats = packing.pack(plan, form, self._slots, seeds, ruled)
        counts = any(_penalized(row.sequence.sampling) for _, _, row in plan.placed())
        message = Message(
            plan.geometry, counts, runs, plan.scores, ints, floats, masks, biases
        )
        if self._tell:
            self._tell(message.to_bytes())
        return self.run(message)

    def run(self, message: Message) -> Outputs:
        """Starts a step that was packed here or by another process.

        Waits until its shape is compiled, which here it may not be yet. There are no
        outputs where tokens are only counted.
        """
        which = message.geometry, message.scores
        with self._news:
            self._news.wait_for(lambda: which in self._compiled)
        run, count = self._compiled[which]
        self._write(self._write_masks, message.masks)
        self._write(self._write_biases, message.biases)
        small = (message.ints, message.floats)
        ints, floats = sharding.put(small, self._everywhere)
        if message.counts:
            self._counts = count(self._newest, self._counts, ints, floats)
        if not message.runs:
            return {}
        self._pools, self._newest, outputs = run(
            self.params,
            self._pools,
            self._newest,
            self._counts,
            self._rules,
            ints,
            floats,
        )
        return outputs

    def _write(self, writers: Writers, rows: np.ndarray) -> None:
        """Writes rules into the device's state, in as few calls as are compiled."""
        while len(rows):
            most = next((n for n in writers if n >= len(rows)), max(writers))
            padded = np.zeros((most, rows.shape[1]), rows.dtype)
            padded[:, 0] = self._slots  # dropped
            padded[: len(rows)] = rows[:most]
            self._rules = writers[most](
                self._rules, sharding.put(padded, self._everywhere)
            )
            rows = rows[most:]


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)


def _form(leaf: Any) -> tuple[tuple[int, ...], str]:
    return tuple(leaf.shape), str(leaf.dtype)


def _first_difference(old: PyTree, new: PyTree) -> str:
    """Says where two trees of forms differ first."""
    whole = [
        dict(jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_form))
        for tree in (old, new)
    ]
    for path in (*whole[0], *whole[1]):
        then, now = (tree.get(path, "missing") for tree in whole)
        if then != now:
            return f"{jax.tree_util.keystr(path)} was {then} and is {now}"
    return "their structures differ"


def _is_form(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and len(leaf) == 2 and isinstance(leaf[1], str)


def _put(leaf: Any, where: Format) -> Array:
    same = leaf.format == where
    return leaf if same else jax.device_put(leaf, where, donate=True)


def _found(plan: Plan) -> Iterator[Plan]:
    """Yields plans of the tokens that a plan's penalised sequences found in the cache.

    They are counted as if they were fed, but not run.
    """
    g = plan.geometry
    shares = [
        [
            row.sequence
            for row in share.chunks
            if row.start == row.sequence.found and _penalized(row.sequence.sampling)
        ]
        for share in plan.shares
    ]
    longest = max((s.found for share in shares for s in share), default=0)
    for start in range(0, longest, max(g.chunk_tokens, 1)):
        rows = [
            [
                Row(s, start, min(g.chunk_tokens, s.found - start), False, False)
                for s in share
                if start < s.found
            ]
            for share in shares
        ]
        yield Plan([Share([], each) for each in rows], g)


def _penalized(params: Any) -> bool:
    return bool(
        params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
    )
