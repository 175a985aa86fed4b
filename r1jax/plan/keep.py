"""Compiles what a server would compile at its start, into JAX's persistent cache.

On the machines of that slice a server with the same options and the same cache then
reads its programs instead of compiling them. That holds on CPUs (tests/plan). No TPU
was there to say whether its runtime asks for these very entries: JAX's key is made of
the program, which is the same, its options, the versions, and the topology.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.engine.programs import Programs, state_shapes
from r1jax.engine.shapes import Shapes
from r1jax.plan.program import Setup
from r1jax.typing import PyTree


def keep(
    setup: Setup,
    rows: int,
    chunk: int,
    pages: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Compiles every step of a server.

    Args:
      setup: The model on its slice.
      rows: Its `--max-num-seqs`.
      chunk: Its `--max-num-batched-tokens`.
      pages: Its `--num-pages`, of each device.
      say: Is told what is being compiled.

    Returns:
      The flags of the server that finds them.
    """
    # All of them, also what takes a moment here and may take longer there.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    slots = setup.shards * rows
    small = state_shapes(setup.config, slots, setup.target.placement)
    shapes = (setup.weights, setup.pools(pages), *small)
    weights, *state = _laid_out(setup, setup.placed(shapes))
    programs = Programs(
        setup.config, setup.target, setup.columns, weights, tuple(state)
    )
    steps = Shapes(rows, chunk, fine=setup.target.form == "cpu")
    if setup.target.kernels:
        say("asking how weights are to lie")
        programs.lay_out(steps.first[-1])
    every = [(g, False) for g in (*steps.first, *steps.rest)]
    every += [(g, True) for g in steps.judging]
    for number, (g, scores) in enumerate(every, 1):
        say(
            f"keeping step {number} of {len(every)}: {g.decodes} decodes, "
            f"{g.chunks} chunks of {g.chunk_tokens}"
            + (", judging prompts" if scores else "")
        )
        programs.compile(g, scores)
    programs.compile_rules()
    return _flags(setup, rows, chunk, pages)


def _laid_out(setup: Setup, shapes: PyTree) -> PyTree:
    """Gives shapes the layouts that arrays have when nobody asks for others."""
    places = jax.tree.map(lambda x: x.sharding, shapes)

    def zeros() -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    platform = "tpu" if setup.on.generation else "cpu"
    traced = jax.jit(zeros, out_shardings=places).trace()
    formats = traced.lower(lowering_platforms=(platform,)).compile().output_formats

    def laid(shape: Any, how: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=how)

    return jax.tree.map(laid, shapes, formats)


def _flags(setup: Setup, rows: int, chunk: int, pages: int) -> list[str]:
    flags: dict[str, int | str] = {
        "--max-model-len": setup.context,
        "--max-num-seqs": rows,
        "--max-num-batched-tokens": chunk,
        "--page-size": setup.page_size,
        "--num-pages": pages,
    }
    placement = setup.target.placement
    if placement is not None:
        data, tensor = placement.mesh.devices.shape
        flags |= {
            "--data-parallel-size": data,
            "--tensor-parallel-size": tensor,
            "--strategy": placement.rules,
        }
    return [word for pair in flags.items() for word in map(str, pair)]
