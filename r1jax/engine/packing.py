"""A plan as two small arrays: all that crosses from host to device for a step."""

import dataclasses
import functools
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.cache import Batch, Geometry
from r1jax.engine.plans import Plan, Sequence
from r1jax.engine.sampling import RowSampling
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
MASKED, BIASED = 1, 2  # bits of a row's `rules`

# The integers of a row, in the order in which `pack` has them.
_ROW = (
    "lengths",
    "homes",
    "slot",
    "last",
    "from_device",
    "samples",
    "rules",
    "prompt_length",
    "logprobs",
    "top_k",
    "seed_high",
    "seed_low",
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
      rules: `MASKED`, `BIASED` or both, where the slot's apply to the row's next token.
      prompt_length: Of the row's sequence, in tokens.
      logprobs: True where the row wants log-probabilities.
      targets: The prompt's token after each, in a step that scores.
      following: The token behind a chunk's last one, where the host knows it; only
        where the prediction layer runs.
    """

    batch: Batch
    sampling: RowSampling
    slot: Int[Array, " B"]
    last: Int[Array, " B"]
    from_device: Int[Array, " B"]
    samples: Int[Array, " B"]
    rules: Int[Array, " B"]
    prompt_length: Int[Array, " B"]
    logprobs: Int[Array, " B"]
    targets: Int[Array, " T"] | None = None
    following: Int[Array, " B"] | None = None


class Form(NamedTuple):
    """The sizes of a packed step.

    Attributes:
      geometry: Of one data shard.
      columns: Width of the page table, in pages.
      shards: Data shards.
      scores: Whether the chunks' tokens are judged, beside feeding them.
      guesses: How many tokens the prediction layer guesses for each row; 0 where it
        does not run.
    """

    geometry: Geometry
    columns: int
    shards: int = 1
    scores: bool = False
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
    judged = {"targets": (tokens,)} if form.scores else {}
    ahead = {"following": (rows,)} if form.guesses else {}
    return {
        "tokens": (tokens,),
        "positions": (tokens,),
        **judged,
        "page_table": (rows, form.columns),
        "lengths": (rows,),
        "homes": (rows,),
        "slot": (rows,),
        "last": (rows,),
        "from_device": (rows,),
        "samples": (rows,),
        "rules": (rows,),
        "prompt_length": (rows,),
        "logprobs": (rows,),
        "top_k": (rows,),
        "seed_high": (rows,),
        "seed_low": (rows,),
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
    plan: Plan,
    form: Form,
    slots: int,
    seeds: Mapping[int, int],
    ruled: Mapping[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Packs a plan.

    Args:
      plan: The step.
      form: Its sizes.
      slots: Rows of device state; padding rows write to this one, which is dropped.
      seeds: The seed of each request, by id.
      ruled: What rules the rows have, by number; `MASKED`, `BIASED` or both.

    Returns:
      int32 [...] and float32 [6, B].
    """
    ints, floats = (blank.copy() for blank in _blank(form, slots))
    v = views(ints, form)
    tokens, positions, table = v["tokens"], v["positions"], v["page_table"]
    numbers: list[int] = []
    values, constants = [], []
    for number, place, row in plan.placed():
        sequence, start, count = row.sequence, row.start, row.count
        end, known = place + count, start + count
        on_device = start >= len(sequence.tokens)
        if on_device:
            positions[place] = start
        else:
            positions[place:end] = np.arange(start, known)
            tokens[place:end] = [*sequence.tokens[start:known], *row.drafts]
            if form.scores and not row.decode:
                after = sequence.tokens[start + 1 : known + 1]
                v["targets"][place : place + len(after)] = after
        if form.guesses and not row.samples:
            v["following"][number] = sequence.tokens[known]
        table[number, : len(sequence.pages)] = sequence.pages
        if sequence.packed is None:
            sequence.packed = _constants(sequence, seeds[sequence.id])
        of_ints, of_floats = sequence.packed
        numbers.append(number)
        mine = (known, sequence.home, sequence.slot, end - 1, on_device, row.samples)
        values.append((*mine, ruled.get(number, 0), *of_ints))
        constants.append(of_floats)
    columns = np.array(values, np.int32).reshape(-1, len(_ROW)).T
    where = np.array(numbers, np.intp)  # a list would be converted for every column
    for name, column in zip(_ROW, columns, strict=True):
        v[name][where] = column
    floats[:, where] = np.array(constants, np.float32).reshape(-1, len(FLOATS)).T
    return ints, floats


@functools.cache
def _blank(form: Form, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a step of padding alone."""
    ints, floats = (
        np.zeros(shape, dtype)
        for shape, dtype in zip(form.shapes, (np.int32, np.float32), strict=True)
    )
    floats[FLOATS.index("top_p")] = floats[FLOATS.index("repetition")] = 1.0
    v = views(ints, form)
    v["positions"][:] = -1
    v["slot"][:] = slots
    return ints, floats


def _constants(
    sequence: Sequence, seed: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Returns the last integers of a row, and its floats, which no step changes."""
    s = sequence.sampling
    high, low = struct.unpack("<2i", struct.pack("<2I", *halves(seed)))
    return (
        (sequence.prompt_length, s.logprobs is not None, s.top_k, high, low),
        (
            s.temperature,
            s.top_p,
            s.min_p,
            s.presence_penalty,
            s.frequency_penalty,
            s.repetition_penalty,
        ),
    )


def halves(seed: int) -> tuple[int, int]:
    """Returns the high and the low 32 bits of a seed."""
    seed &= 2**64 - 1
    return seed >> 32, seed & (2**32 - 1)


def unpack(ints: Array, floats: Array, form: Form, target: Target) -> StepInput:
    """Undoes `pack` inside the compiled step."""
    v = views(ints, form)
    sampling = RowSampling(
        **{name: floats[i] for i, name in enumerate(FLOATS)},
        top_k=v.pop("top_k"),
        seed=jnp.stack([v.pop("seed_high"), v.pop("seed_low")], 1).view(np.uint32),
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
    whole = {name: each.pop(name) for name in ("batch", "targets")}
    each = jax.tree.map(lambda array: array[of], each)
    return StepInput(**whole, **each | {"last": jnp.concatenate(last)})
