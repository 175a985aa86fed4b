"""A plan as two small arrays: all that crosses from host to device for a step."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.cache import Batch, Geometry
from r1jax.engine.sampling import RowSampling
from r1jax.engine.scheduler import Plan
from r1jax.target import Target
from r1jax.typing import Array, Int

FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence",
    "frequency",
    "repetition",
)


@flax.struct.dataclass
class StepInput:
    """What the compiled step reads, unpacked.

    Attributes:
      batch: Tokens, positions and pages.
      sampling: Parameters of each row.
      slot: The row's place in the device state; out of range for padding.
      last: The flat index of the row's last token.
      from_device: True where the row's one token is the slot's last sampled one.
      samples: True where the row's next token counts.
      prompt_length: Of the row's sequence, in tokens.
      logprobs: True where the row wants log-probabilities.
      following: The token behind a chunk's last one, where the host knows it; only
        where the prediction layer runs.
    """

    batch: Batch
    sampling: RowSampling
    slot: Int[Array, " B"]
    last: Int[Array, " B"]
    from_device: Int[Array, " B"]
    samples: Int[Array, " B"]
    prompt_length: Int[Array, " B"]
    logprobs: Int[Array, " B"]
    following: Int[Array, " B"] | None = None


class Form(NamedTuple):
    """The sizes of a packed step.

    Attributes:
      geometry: Of one data shard.
      columns: Width of the page table, in pages.
      shards: Data shards.
      guesses: How many tokens the prediction layer guesses for each row; 0 where it
        does not run.
    """

    geometry: Geometry
    columns: int
    shards: int = 1
    guesses: int = 0

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return self.shards * self.geometry.rows

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the integers and of the floats."""
        return (sum(math.prod(s) for s in fields(self).values()),), (
            len(FLOATS),
            self.rows,
        )


def fields(form: Form) -> dict[str, tuple[int, ...]]:
    """Returns the integer fields of a packed step, in order, with their shapes."""
    tokens, rows = form.shards * form.geometry.tokens, form.rows
    ahead = {"following": (rows,)} if form.guesses else {}
    return {
        "tokens": (tokens,),
        "positions": (tokens,),
        "page_table": (rows, form.columns),
        "lengths": (rows,),
        "homes": (rows,),
        "slot": (rows,),
        "last": (rows,),
        "from_device": (rows,),
        "samples": (rows,),
        "prompt_length": (rows,),
        "logprobs": (rows,),
        "top_k": (rows,),
        "seed": (rows, 2),
        **ahead,
    }


def views(ints: Any, form: Form) -> dict[str, Any]:
    """Cuts the flat integers into their fields (NumPy views, or slices in a trace)."""
    out, start = {}, 0
    for name, shape in fields(form).items():
        size = math.prod(shape)
        out[name] = ints[start : start + size].reshape(shape)
        start += size
    return out


def pack(
    plan: Plan, form: Form, slots: int, seeds: Mapping[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Packs a plan.

    Args:
      plan: The step.
      form: Its sizes.
      slots: Rows of device state; padding rows write to this one, which is dropped.
      seeds: The seed of each request, by id.

    Returns:
      int32 [...] and float32 [6, B].
    """
    ints, floats = (
        np.zeros(shape, dtype)
        for shape, dtype in zip(form.shapes, (np.int32, np.float32), strict=True)
    )
    floats[FLOATS.index("top_p")] = floats[FLOATS.index("repetition")] = 1.0
    v = views(ints, form)
    v["positions"][:] = -1
    v["slot"][:] = slots
    for number, place, row in plan.placed():
        sequence, sampling = row.sequence, row.sequence.sampling
        end = place + row.count
        v["positions"][place:end] = np.arange(row.start, row.start + row.count)
        on_device = row.start >= len(sequence.tokens)
        if not on_device:
            known = sequence.tokens[row.start : row.start + row.count]
            v["tokens"][place:end] = [*known, *row.drafts]
        if form.guesses and not row.samples:
            v["following"][number] = sequence.tokens[row.start + row.count]
        v["page_table"][number, : len(sequence.pages)] = sequence.pages
        v["lengths"][number] = row.start + row.count
        v["homes"][number] = sequence.home
        v["slot"][number] = sequence.slot
        v["last"][number] = end - 1
        v["from_device"][number] = on_device
        v["samples"][number] = row.samples
        v["prompt_length"][number] = sequence.prompt_length
        v["logprobs"][number] = sampling.logprobs is not None
        v["top_k"][number] = sampling.top_k
        seed = seeds[sequence.id] & (2**64 - 1)
        v["seed"][number] = np.array([seed >> 32, seed & (2**32 - 1)]).astype(np.uint32)
        floats[:, number] = (
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            sampling.repetition_penalty,
        )
    return ints, floats


def unpack(ints: Array, floats: Array, form: Form, target: Target) -> StepInput:
    """Undoes `pack` inside the compiled step."""
    v = views(ints, form)
    sampling = RowSampling(
        **{name: floats[i] for i, name in enumerate(FLOATS)},
        top_k=v.pop("top_k"),
        seed=v.pop("seed").view(np.uint32),
    )
    names = ("tokens", "positions", "page_table", "lengths", "homes")
    parts = {name: v.pop(name) for name in names}
    batch = Batch(**parts, geometry=form.geometry, target=target)
    return StepInput(batch=batch, sampling=sampling, **v)


def asked(step: StepInput, form: Form) -> StepInput:
    """Returns what each row says for each of its tokens that are asked.

    `last` is then which flat token it is. Where every row has one nothing changes.
    """
    g = form.geometry
    if g.decode_tokens == 1:
        return step
    rows: list[np.ndarray] = []
    last: list[Any] = []
    for shard in range(form.shards):
        first = shard * g.rows
        decodes = np.repeat(np.arange(g.decodes), g.decode_tokens)
        rows.append(first + np.concatenate([decodes, np.arange(g.decodes, g.rows)]))
        last.append(shard * g.tokens + np.arange(g.first_chunk))
        last.append(step.last[first + g.decodes : first + g.rows])
    of = np.concatenate(rows)
    each = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    batch = each.pop("batch")
    each = jax.tree.map(lambda array: array[of], each)
    return StepInput(batch, **each | {"last": jnp.concatenate(last)})
