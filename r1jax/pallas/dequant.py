"""Weights of few bits, and the loop that multiplies by them as they lie.

Stored weights are widened on the chip, a chunk at a time, just before the matrix unit
takes them: memory is read at their stored width. Scales never touch a weight. One scale
a column multiplies the finished sum; a scale for each block multiplies that block's
part of the sum, in float32.

In this module weights are [..., D, F] and scales [..., D / depth, F / width].
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.errors import ConfigError
from r1jax.typing import Array

LANES = 128
STORED = ("bfloat16", "float32", "int8", "float8_e4m3fn", "int4")
# Weights along the sum that may share a scale, when a column has several.
_DEPTHS = (128, 256, 512)
# Rows of fp8 that a register packs, and what `_rebias` divides by.
_PACKED, _REBIASED = 32, 16


class Scaling(NamedTuple):
    """How many weights share a scale.

    Attributes:
      depth: Along the sum; all of D where a column has one scale.
      width: Along the columns, 1 or 128.
    """

    depth: int
    width: int


class Form(NamedTuple):
    """A way to store weights, as cases name it.

    Attributes:
      dtype: Of the values.
      scaling: Sizes of a scale's block; depth 0 is a whole column. None without scales.
    """

    dtype: Any
    scaling: Scaling | None

    def scales(self, depth: int, columns: int, *between: int) -> tuple[int, ...] | None:
        """Returns the shape of scales for weights [D, *between, F]."""
        if self.scaling is None:
            return None
        across = pl.cdiv(columns, self.scaling.width)
        along = (depth // self.scaling.depth,) if self.scaling.depth else ()
        return (*along, *between, across)


FORMS = {
    "bfloat16": Form(jnp.bfloat16, None),
    "int8": Form(jnp.int8, Scaling(0, 1)),
    "fp8": Form(jnp.float8_e4m3fn, Scaling(0, 1)),
    "fp8_blocks": Form(jnp.float8_e4m3fn, Scaling(128, 128)),
    "int4": Form(jnp.int4, Scaling(256, 1)),
}


def scaling(kernel: str, weights: Any, scales: Any) -> Scaling | None:
    """Returns what the scales' shape says, or None without scales.

    Args:
      kernel: For the message.
      weights: [..., D, F].
      scales: [..., 1, F] for one a column, [..., D / 128 (256, 512), F or F / 128] for
        one a block (a last block of columns may be narrower), or None.

    Raises:
      ConfigError: A dtype without a product, or shapes that do not fit.
    """
    if weights.dtype.name not in STORED:
        raise ConfigError(
            f"{kernel} cannot multiply by weights of {weights.dtype}",
            f"it knows {', '.join(STORED)}",
            "convert the weights to one of these",
        )
    integer = jnp.issubdtype(weights.dtype, jnp.integer)
    if scales is None and not integer:
        return None
    deep, wide = weights.shape[-2:]
    rows, columns = (1, wide) if scales is None else scales.shape[-2:]
    depths = [deep] if rows == 1 else [d for d in _DEPTHS if d * rows == deep]
    widths = [w for w in (1, LANES) if pl.cdiv(wide, w) == columns]
    same = scales is not None and scales.shape[:-2] == weights.shape[:-2]
    if not (same and depths and widths):
        shape = "none" if scales is None else f"scales of shape {scales.shape}"
        raise ConfigError(
            f"{kernel} was given {weights.dtype} weights {weights.shape} and {shape}",
            "a scale belongs to a whole column, or to 128, 256 or 512 weights of a "
            f"column, or to {LANES} columns of such a block; blocks must divide D",
            f"give scales that cut D = {deep} and F = {wide} so",
        )
    return Scaling(depths[0], widths[0])


def dequantise(weights: Array, scales: Array | None, kind: Scaling | None) -> Array:
    """Returns the float32 weights that stored ones stand for."""
    wide = weights.astype(jnp.float32)
    if scales is None or kind is None:
        return wide
    blocks = scales.astype(jnp.float32)
    blocks = jnp.repeat(blocks, kind.depth, axis=-2)
    return wide * jnp.repeat(blocks, kind.width, axis=-1)[..., : weights.shape[-1]]


def chunk(depth: int, kind: Scaling | None, most: int) -> int:
    """Returns the terms of the sum in one pass: a divisor of the depth, if it has one.

    Args:
      depth: Terms in all, D.
      kind: A pass covers whole blocks.
      most: Not more than this, where a divisor allows.
    """
    blocked = kind is not None and kind.depth < depth
    step = math.lcm(LANES, kind.depth) if blocked and kind else LANES
    if depth % step:
        return depth
    counts = [n for n in range(1, depth // step + 1) if depth // step % n == 0]
    return step * max(n for n in counts if n * step <= max(most, step))


def scale_spec(shape: Sequence[int], kind: Scaling, columns: int, at: Any) -> Any:
    """Returns the block of scales [..., D / depth, F / width] that a step needs.

    Args:
      shape: Of the scales.
      kind: What shares a scale.
      columns: In a step's block of weights.
      at: The index map of its block of weights.
    """
    none = (None,) * (len(shape) - 2)
    if kind.width == 1:
        return pl.BlockSpec((*none, shape[-2], columns), at)

    def whole(*args: Any) -> Any:
        return (*at(*args)[:-1], 0)

    # Each multiplies 128 lanes: read as a scalar, from the scalars' memory.
    return pl.BlockSpec((*none, *shape[-2:]), whole, memory_space=pltpu.SMEM)


def scale_bytes(shape: Sequence[int], kind: Scaling | None, columns: int) -> int:
    """Returns the VMEM of a step's scales."""
    if kind is None or kind.width != 1:
        return 0
    return 4 * pl.cdiv(shape[-2], 8) * 8 * columns


def products(
    x: Any,
    weights: Sequence[Any],
    scales: Sequence[Any],
    sums: Sequence[Any],
    *,
    rows: Any,
    chunk: int,
    kind: Scaling | None,
    fp8: str,
) -> list[Array]:
    """Returns some rows of x times each of the widened weights (inside a kernel).

    Args:
      x: [M, D].
      weights: Blocks of columns [D, columns].
      scales: Their scales, as `scale_spec` brings them; none where `kind` is None.
      sums: Float32, [rows, columns] each: where they grow if there are several passes.
      rows: Which rows of x.
      chunk: Terms in a pass.
      kind: What shares a scale.
      fp8: Which of these dtypes the chip unpacks.
    """
    depth = x.shape[1]
    blocked = kind is not None and kind.depth < depth
    known = list(scales) or [None] * len(weights)
    other = weights[0].dtype == jnp.float8_e4m3fn and fp8 == "float8_e4m3b11fnuz"
    rebiased = other and depth % _PACKED == 0
    unit = _REBIASED if rebiased else 1

    def part(i: Any, weight: Any, scale: Any) -> Array:
        step = kind.depth if blocked and kind else chunk

        def product(block: Any) -> Array:
            terms = _terms(block, step)
            stored = weight[terms, :]
            y = _dot(x[rows, terms], _rebias(stored) if rebiased else stored)
            return _scaled(y, scale, block, kind, unit) if blocked else y

        count = chunk // step
        return functools.reduce(
            operator.add, (product(i * count + j) for j in range(count))
        )

    if depth == chunk:
        found = [part(0, *pair) for pair in zip(weights, known, strict=True)]
    else:
        for total in sums:
            total[...] = jnp.zeros_like(total)

        def add(i: Any, carry: None) -> None:
            for weight, scale, total in zip(weights, known, sums, strict=True):
                total[...] += part(i, weight, scale)

        jax.lax.fori_loop(0, depth // chunk, add, None)
        found = [total[...] for total in sums]
    if blocked:
        return found
    if kind is None:
        return [y * unit for y in found] if rebiased else found
    pairs = zip(found, known, strict=True)
    return [_scaled(y, scale, 0, kind, unit) for y, scale in pairs]


def _terms(block: Any, step: int) -> Any:
    """Returns a block's terms of the sum; the compiler must see where they begin."""
    if isinstance(block, int):
        return pl.ds(block * step, step)
    return pl.ds(pl.multiple_of(block * step, LANES), step)


def _dot(x: Array, weights: Array) -> Array:
    """Multiplies in x's dtype, with float32 sums."""
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(
        x,
        weights.astype(x.dtype),
        preferred_element_type=jnp.float32,
        precision=exact,
    )


def _rebias(weights: Array) -> Array:
    """Returns float8_e4m3fn as the fp8 that v5e and v6e unpack in one instruction.

    There every pattern means a sixteenth, and -0 is no number, so it becomes 0 first;
    float8_e4m3fn's NaN would read as 480. The compiler's own conversion takes three
    times the instructions.
    """
    most = jnp.uint32(0x7F7F7F7F)
    words = pltpu.bitcast(weights, jnp.uint32)
    # A byte's top bit is set by the sum where the other seven are not all zero.
    words &= ((words & most) + most) | most
    return pltpu.bitcast(words, jnp.float8_e4m3b11fnuz)


def _scaled(
    product: Array, scales: Any, block: Any, kind: Scaling | None, unit: int
) -> Array:
    """Multiplies a block's product by that block's scales and by `unit`."""
    if kind is None or kind.width == 1:
        return product * (scales[pl.ds(block, 1), :].astype(jnp.float32) * unit)
    columns = product.shape[1]
    first = pl.program_id(0) * (columns // kind.width)
    last = scales.shape[1] - 1  # a block may hang over the last column
    parts = [
        product[:, i * kind.width : (i + 1) * kind.width]
        * (scales[block, jnp.minimum(first + i, last)].astype(jnp.float32) * unit)
        for i in range(pl.cdiv(columns, kind.width))
    ]
    return jnp.concatenate(parts, axis=1)
