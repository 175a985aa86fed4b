"""The compiled step in its few shapes, and the state it keeps on the device."""

import dataclasses
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from r1jax import model, sharding
from r1jax.cache import Batch, Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine import packing, sampling
from r1jax.engine.packing import Form
from r1jax.engine.types import MAX_LOGPROBS
from r1jax.target import Target
from r1jax.typing import Array, PyTree

Outputs = dict[str, Array]

# What `layers.linear.matvecs` needs: sums in any order, in the widest registers.
CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_prefer_vector_width": 512,
}


def run_step(
    config: ModelConfig,
    form: Form,
    target: Target,
    params: PyTree,
    pools: Pools,
    newest: Array,
    counts: dict[str, Array],
    ints: Array,
    floats: Array,
) -> tuple[Pools, Array, Outputs]:
    """Feeds a step's tokens and samples each row's next one.

    Args:
      config: The model.
      form: The sizes of the step.
      target: What it is compiled for.
      params: Parameters.
      pools: The cache (donated).
      newest: Each slot's last sampled token, int32 [slots] (donated).
      counts: Which tokens each slot's prompt and answer hold; see `count_tokens`.
      ints: The packed plan's integers.
      floats: The packed plan's floats.

    Returns:
      The pools, the newest tokens, and for each row its token and, where any row
      wants them, log-probabilities.
    """
    step = packing.unpack(ints, floats, form, target)
    batch = _with_device_tokens(step, newest)
    hidden, pools = model.step(config, params, pools, batch, step.last)
    logits = model.logits(params, hidden)
    slot = jnp.minimum(step.slot, len(newest) - 1)
    rows = step.sampling
    plain = (rows.presence == 0) & (rows.frequency == 0) & (rows.repetition == 1)
    penalized = jax.lax.cond(
        plain.all(),
        lambda: logits,
        lambda: sampling.penalize(
            logits, counts["prompt"][slot], counts["answer"][slot], rows
        ),
    )
    uniform = sampling.draw(rows.seed, batch.positions[step.last] + 1)
    token = sampling.choose(penalized, rows, uniform)
    own, ids, best = jax.lax.cond(
        (step.logprobs != 0).any(),
        lambda: sampling.log_probabilities(logits, token, MAX_LOGPROBS),
        lambda: _no_logprobs(logits),
    )
    kept = jnp.where(step.samples != 0, step.slot, len(newest))
    newest = newest.at[kept].set(token, mode="drop")
    outputs = {"token": token, "logprob": own, "top_ids": ids, "top_logprobs": best}
    return pools, newest, outputs


def count_tokens(
    form: Form,
    target: Target,
    newest: Array,
    counts: dict[str, Array],
    ints: Array,
    floats: Array,
) -> dict[str, Array]:
    """Notes the tokens that a step feeds, for penalties (`counts` is donated).

    A token counts when it is fed: as prompt below the sequence's prompt length, as
    answer above it. So a sequence that prefills again after losing its pages comes to
    the same counts. A row that starts at position 0 begins with empty counts.
    """
    step = packing.unpack(ints, floats, form, target)
    batch = _with_device_tokens(step, newest)
    slots = len(newest)
    rows = batch.token_rows()
    fed = batch.positions >= 0
    begins = jnp.where(batch.positions[_first_tokens(form)] == 0, step.slot, slots)
    answer = (batch.positions >= step.prompt_length[rows]) & fed
    in_prompt = jnp.where(fed & ~answer, step.slot[rows], slots)
    in_answer = jnp.where(answer, step.slot[rows], slots)
    prompt = counts["prompt"].at[begins].set(False, mode="drop")
    tally = counts["answer"].at[begins].set(0, mode="drop")
    return {
        "prompt": prompt.at[in_prompt, batch.tokens].set(True, mode="drop"),
        "answer": tally.at[in_answer, batch.tokens].add(1, mode="drop"),
    }


def _first_tokens(form: Form) -> np.ndarray:
    """The flat index of each row's first token."""
    g = form.geometry
    chunks = g.decodes + np.arange(g.chunks) * g.chunk_tokens
    rows = np.concatenate([np.arange(g.decodes), chunks])
    return np.concatenate([rows + shard * g.tokens for shard in range(form.shards)])


def _with_device_tokens(step: packing.StepInput, newest: Array) -> Batch:
    """Fills in the tokens that only the device knows."""
    batch = step.batch
    rows = batch.token_rows()
    slot = jnp.minimum(step.slot[rows], len(newest) - 1)
    known = step.from_device[rows] == 0
    tokens = jnp.where(known, batch.tokens, newest[slot])
    return dataclasses.replace(batch, tokens=tokens)


def _no_logprobs(logits: Array) -> tuple[Array, Array, Array]:
    rows, few = len(logits), min(MAX_LOGPROBS, logits.shape[-1])
    none = jnp.zeros((rows, few))
    return jnp.zeros(rows), none.astype(jnp.int32), none


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


_HEAD = struct.Struct("<3i?i")


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
        """
        self._target, self._tell, on = target, tell, target.placement
        self._shards = on.devices("rows") if on else 1
        self._compiler_options = CPU_OPTIONS if target.form == "cpu" else {}
        self._config, self.params, self._pools = config, params, pools
        self._slots, self._columns = slots, columns
        self._everywhere = where = target.everywhere
        self._newest = jnp.zeros(slots, jnp.int32, device=where)
        table = (slots, config.vocab_size)
        cut = on.sharding(("rows", "vocab"), table) if on else None
        self._counts = {
            "prompt": jnp.zeros(table, jnp.bool_, device=cut),
            "answer": jnp.zeros(table, jnp.int32, device=cut),
        }
        held = (params, pools, self._newest, self._counts)
        self._shapes = jax.tree.map(_shape_of, held)
        self._compiled: dict[Geometry, list[Any]] = {}
        self._news = threading.Condition()

    def lay_out(self, geometry: Geometry) -> None:
        """Lays the parameters as the compiler wants them, judged by one shape.

        With the layouts that arrays have by default a TPU turns many weights in every
        step (docs/decisions.md). The arrays are moved one by one, and the old ones
        given up: read `params` afterwards.
        """
        params, *state = self._shapes
        automatic = jax.tree.map(lambda x: Format(Layout.AUTO, x.sharding), params)
        plain = _places(state)
        run, ints, floats = self._program(geometry)
        jitted = jax.jit(
            run,
            in_shardings=(automatic, *plain, ints.sharding, floats.sharding),
            donate_argnums=(1, 2),
        )
        shapes = jax.tree.map(_without_placement, self._shapes)
        compiled = jitted.lower(*shapes, ints, floats).compile()
        formats = compiled.input_formats[0][0]
        self.params = jax.tree.map(_put, self.params, formats)
        self._shapes = (jax.tree.map(_shape_of, self.params), *state)

    def compile(self, geometry: Geometry) -> None:
        """Compiles both programs of one shape."""
        run, ints, floats = self._program(geometry)
        weights, pools, *state = self._shapes
        count = partial(count_tokens, self._form(geometry), self._target)
        where = self._everywhere
        # Each process reads the tokens from its own devices.
        out = None if where is None else (_places(pools), where, where)
        programs = [
            jax.jit(run, donate_argnums=(1, 2), out_shardings=out).lower(
                weights, pools, *state, ints, floats
            ),
            jax.jit(count, donate_argnums=(1,), out_shardings=_places(state[1])).lower(
                *state, ints, floats
            ),
        ]
        done = [traced.compile(self._compiler_options) for traced in programs]
        with self._news:
            self._compiled[geometry] = done
            self._news.notify_all()

    def _form(self, geometry: Geometry) -> Form:
        return Form(geometry, self._columns, self._shards)

    def _program(self, geometry: Geometry) -> tuple[Any, Any, Any]:
        """Returns the step of one shape, and the shapes of its packed plan."""
        form = self._form(geometry)
        run = partial(run_step, self._config, form, self._target)
        ints, floats = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=self._everywhere)
            for shape, dtype in zip(form.shapes, (jnp.int32, jnp.float32), strict=True)
        )
        return run, ints, floats

    def dispatch(self, plan: Any, seeds: dict[int, int]) -> Outputs:
        """Starts a step of a compiled shape; its outputs may not be computed yet."""
        ints, floats = packing.pack(plan, self._form(plan.geometry), self._slots, seeds)
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


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.format)


def _places(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.sharding, shapes)


def _without_placement(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype)


def _put(leaf: Any, where: Format) -> Array:
    same = leaf.format == where
    return leaf if same else jax.device_put(leaf, where, donate=True)


def _penalized(params: Any) -> bool:
    return bool(
        params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
    )
