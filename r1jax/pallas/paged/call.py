"""Builds the pallas_call of the core from its sizes and arrays."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.pallas.backend import Backend
from r1jax.pallas.chips import CHIPS, fit
from r1jax.pallas.paged.kernel import attention_kernel
from r1jax.pallas.paged.pool import LANES, Pool
from r1jax.pallas.paged.rows import SLOTS
from r1jax.pallas.paged.shape import Shape
from r1jax.pallas.paged.tiles import Chunks, Tiles
from r1jax.typing import Array


def attend(
    name: str,
    shape: Shape,
    backend: Backend,
    q: Array,
    new: Pool,
    pool: Pool,
    layer: Array,
    page_table: Array,
    tiles: Tiles,
    chunks: Chunks | None,
) -> tuple[Array, Array | None, Pool]:
    """Runs the core.

    Args:
      name: Of the kernel, for profiles.
      shape: The sizes.
      backend: "tpu" or "interpret".
      q: Queries in tiles, [tiles, K, rows, E'], or flat, [T, N, E'].
      new: Entries: a token each [B, K, 1, E] (with scales [B, A, 1]), or with `chunks`
        in place [chunks, K, chunk, E] (with scales [chunks, A, chunk]).
      pool: The cache with its key heads, [L, P, K, Z, E]; written in place.
      layer: Which layer, a scalar.
      page_table: [B, J].
      tiles: The schedule, a multiple of the group long.
      chunks: For a mixed step, what is written before attention starts.

    Returns:
      Mixed values, as q but W wide; with `shape.partial` the same 128 wide in float32,
      whose lanes 0 and 1 are peak and total; and the pool.
    """
    scalars = _scalars(layer, page_table, tiles, chunks)
    inputs, outputs, aliases = _operands(shape, q, new, pool, len(scalars))
    scratch = _scratch(shape)
    names = [*scalars, *(n for n, *_ in inputs), *(n for n, *_ in outputs), *scratch]

    def body(*refs: Any) -> None:
        attention_kernel(shape, SimpleNamespace(**dict(zip(names, refs, strict=True))))

    chip = backend.chip or CHIPS["v6e"]
    interpret = pltpu.InterpretParams(detect_races=backend.detect_races)
    results = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(len(tiles.keys) // shape.blocks.group,),
            in_specs=[spec for _, _, spec in inputs],
            out_specs=[spec for _, _, spec in outputs],
            scratch_shapes=list(scratch.values()),
        ),
        out_shape=[out for _, out, _ in outputs],
        input_output_aliases=aliases,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",),
            vmem_limit_bytes=fit(name, shape.buffers(), chip),
        ),
        cost_estimate=_cost(shape),
        interpret=interpret if backend.kind == "interpret" else False,
        name=name,
    )(*scalars.values(), *(array for _, array, _ in inputs))
    given = (n.removesuffix("_home") for n, *_ in outputs)
    found = dict(zip(given, results, strict=True))
    after = Pool(found["pool"], found.get("scales"))
    return found["out"], found.get("statistics"), after


def _scalars(
    layer: Array, page_table: Array, tiles: Tiles, chunks: Chunks | None
) -> dict[str, Array]:
    scalars = {
        "layer": layer.reshape(1),
        "table": page_table.reshape(-1),
        **tiles._asdict(),
    }
    if chunks is not None:
        scalars |= {
            "chunk_page": chunks.page,
            "chunk_at": chunks.at,
            "chunk_low": chunks.low,
            "chunk_high": chunks.high,
        }
    return {name: array.astype(jnp.int32) for name, array in scalars.items()}


def _operands(
    shape: Shape, q: Array, new: Pool, pool: Pool, scalars: int
) -> tuple[list[Any], list[Any], dict[int, int]]:
    """Returns inputs (name, array, spec), outputs (name, shape, spec) and aliases."""
    group, home = shape.blocks.group, pl.BlockSpec(memory_space=pltpu.HBM)

    def tiled(*sizes: int) -> pl.BlockSpec:
        zeros = (0,) * len(sizes)
        return pl.BlockSpec((group, *sizes), lambda i, *_: (i, *zeros))

    def entries(array: Array) -> pl.BlockSpec:
        return home if shape.chunks else tiled(*array.shape[1:])

    inputs = [
        ("q_home", q, home) if shape.flat else ("q", q, tiled(*q.shape[1:])),
        ("new", new.values, entries(new.values)),
        ("before", pool.values, home),
    ]

    def result(name: str, width: int, dtype: jnp.dtype) -> tuple[str, Any, Any]:
        kept = jax.ShapeDtypeStruct((*q.shape[:-1], width), dtype)
        if shape.flat:
            return f"{name}_home", kept, home
        return name, kept, tiled(*kept.shape[1:])

    outputs = [
        result("out", shape.value_width, shape.out),
        ("pool", jax.ShapeDtypeStruct(pool.values.shape, pool.values.dtype), home),
    ]
    aliases = {scalars + 2: 1}
    if shape.chunks and not shape.flat and outputs[0][1] == _like(q):
        aliases[scalars] = 0  # tiles of queries were gathered for this call alone
    if pool.scales is not None and new.scales is not None:
        inputs += [
            ("new_scales", new.scales, entries(new.scales)),
            ("scales_before", pool.scales, home),
        ]
        same = jax.ShapeDtypeStruct(pool.scales.shape, jnp.float32)
        outputs.append(("scales", same, home))
        aliases[scalars + 4] = 2
    if shape.partial:
        outputs.append(result("statistics", LANES, jnp.dtype(jnp.float32)))
    return inputs, outputs, aliases


def _like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _scratch(s: Shape) -> dict[str, Any]:
    """Returns the kernel's own memory by name."""
    depth, rows = s.blocks.depth, (s.heads, s.rows)
    page = (s.heads, s.page, s.width)
    run = (s.stages, s.heads, s.chunk, s.width)
    scratch: dict[str, Any] = {
        "buffer": pltpu.VMEM((depth, s.block_pages, *page), s.values),
        "stage": pltpu.VMEM(run, s.values),
        "mixed": pltpu.VMEM((*rows, s.value_width), jnp.float32),
        "peak": pltpu.VMEM((*rows, LANES), jnp.float32),
        "total": pltpu.VMEM((*rows, LANES), jnp.float32),
        "cursor": pltpu.SMEM((4,), jnp.int32),
        "fetched": pltpu.SemaphoreType.DMA((depth,)),
        "written": pltpu.SemaphoreType.DMA((s.stages,)),
    }
    if s.flat:
        scratch["q"] = pltpu.VMEM((SLOTS, *rows, s.query_width), s.compute)
        scratch["out"] = pltpu.VMEM((SLOTS, *rows, s.value_width), s.out)
        if s.partial:
            scratch["statistics"] = pltpu.VMEM((SLOTS, *rows, LANES), jnp.float32)
        scratch["queries_here"] = pltpu.SemaphoreType.DMA((SLOTS,))
        scratch["results_home"] = pltpu.SemaphoreType.DMA((SLOTS,))
    if s.chunks:
        scratch["fresh"] = pltpu.VMEM(run, s.values)
    if s.scales:
        lanes = s.chunk if s.chunks else s.page
        staged = pltpu.VMEM((s.stages, s.scales, lanes), jnp.float32)
        scratch["scale_buffer"] = pltpu.VMEM((depth, s.scales, s.keys), jnp.float32)
        scratch["scale_stage"] = staged
        if s.chunks:
            scratch["scale_fresh"] = staged
    return scratch


def _cost(s: Shape) -> pl.CostEstimate:
    """Returns what the call costs when every tile reads all that its pages can hold."""
    keys = s.tiles * s.pages * s.page
    rows = s.tiles * s.heads * s.rows
    pairs = keys * s.heads * s.rows
    entry = s.heads * s.width * s.values.itemsize + 4 * s.scales
    queries = s.query_width * s.compute.itemsize + s.value_width * s.out.itemsize
    return pl.CostEstimate(
        flops=2 * pairs * (s.query_width + s.value_width),
        transcendentals=pairs,
        bytes_accessed=keys * entry + rows * queries,
    )
