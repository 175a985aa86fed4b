"""The compiled forms of an engine's steps, made from shapes alone.

Whoever has the same shapes compiles the same programs: the engine for its arrays, and
`r1jax.plan` ahead of time for a slice that is not there.
"""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from r1jax.cache import Geometry
from r1jax.command import require
from r1jax.config import ModelConfig
from r1jax.engine.guides import words_of
from r1jax.engine.packing import Form
from r1jax.engine.steps import (
    count_tokens,
    cpu_options,
    run_step,
    write_biases,
    write_masks,
)
from r1jax.engine.types import MAX_BIASES
from r1jax.errors import ConfigError
from r1jax.sharding import Placement
from r1jax.target import Target
from r1jax.typing import PyTree

Shapes = dict[str, jax.ShapeDtypeStruct]
Writers = dict[int, Any]
_ROWS_WRITTEN = (4, 64)


class Programs:
    """Compiles steps of one model over one cache, geometry by geometry.

    Attributes:
      weights: Shapes of the parameters, with placement and layout.
    """

    def __init__(
        self,
        config: ModelConfig,
        target: Target,
        columns: int,
        weights: PyTree,
        state: tuple[PyTree, PyTree, PyTree, PyTree],
        guesses: int = 0,
    ) -> None:
        """Compiles nothing yet.

        Args:
          config: The model.
          target: What to compile for.
          columns: Pages of the longest sequence.
          weights: Shapes of the parameters, with their `Format`s as shardings.
          state: The same of the pools, the newest tokens, the counts and the rules.
          guesses: How many tokens the prediction layer guesses at once; 0 for none.
        """
        self.weights = weights
        self._config, self._target, self._columns = config, target, columns
        self._state, self._guesses = state, guesses
        on = target.placement
        self._shards = on.devices("rows") if on else 1

    def form(self, geometry: Geometry, scores: bool = False) -> Form:
        """Returns the sizes of a packed step."""
        return Form(geometry, self._columns, self._shards, scores, self._guesses)

    def compile_laid(self, geometry: Geometry) -> Any:
        """Compiles a step over weights that lie as the compiler wants them.

        With the layouts that arrays have by default a TPU turns many weights in every
        step (docs/decisions.md).
        """
        automatic = jax.tree.map(_automatic, self.weights)
        run, *small = self._step(geometry)
        plain = _places((*self._state, *small))
        jitted = jax.jit(run, in_shardings=(automatic, *plain), donate_argnums=(1, 2))
        shapes = jax.tree.map(_unplaced, (self.weights, *self._state, *small))
        return self._compile(jitted, shapes)

    def lay_out(self, geometry: Geometry) -> PyTree:
        """Asks the compiler how weights are to lie, judged by one geometry.

        Returns:
          A `Format` for each parameter; `weights` has them from now on.
        """
        formats = self.compile_laid(geometry).input_formats[0][0]
        self.weights = jax.tree.map(_laid, self.weights, formats)
        return formats

    def compile(self, geometry: Geometry, scores: bool = False) -> tuple[Any, Any]:
        """Compiles a step, and the counting of its tokens for penalties.

        Args:
          geometry: The shape.
          scores: Whether the step judges the chunks' tokens.
        """
        run, *small = self._step(geometry, scores)
        count = partial(count_tokens, self.form(geometry, scores), self._target)
        pools, newest, counts, _ = self._state
        where = self._target.everywhere
        # Each process reads the tokens from its own devices.
        out = None if where is None else (_places(pools), where, where)
        step = jax.jit(run, donate_argnums=(1, 2), out_shardings=out)
        tally = jax.jit(count, donate_argnums=(1,), out_shardings=_places(counts))
        return (
            self._compile(step, (self.weights, *self._state, *small), geometry.tokens),
            self._compile(tally, (newest, counts, *small)),
        )

    def compile_rules(self) -> tuple[Writers, Writers]:
        """Compiles the writing of masks and of biases, for few slots and for many.

        Returns:
          Programs by the rows that they write, few first; for masks, and for biases.
        """
        rules = self._state[-1]
        where = self._target.everywhere

        def writers(write: Any, width: int, dtype: Any, sizes: set[int]) -> Writers:
            jitted = jax.jit(write, donate_argnums=(0,), out_shardings=_places(rules))
            return {
                n: self._compile(
                    jitted,
                    (rules, jax.ShapeDtypeStruct((n, width), dtype, sharding=where)),
                )
                for n in sorted(sizes)
            }

        slots, words = rules["masks"].shape
        few, many = (min(slots, n) for n in _ROWS_WRITTEN)
        return (
            writers(write_masks, 1 + words, jnp.uint32, {few, many}),
            writers(write_biases, 1 + 2 * MAX_BIASES, jnp.int32, {few}),
        )

    def _compile(self, program: Any, shapes: tuple[Any, ...], tokens: int = 1) -> Any:
        place: Any = jax.tree.leaves(self.weights)[0].sharding
        place = place.sharding if isinstance(place, Format) else place
        on = self._target.placement
        # Only described devices need to be named; a TPU's are named always, so that
        # both come to the same program.
        on_tpu = next(iter(place.device_set)).platform == "tpu"
        # Kernels ask the mesh what they are compiled for.
        with jax.set_mesh(on.mesh) if on_tpu and on else contextlib.nullcontext():
            traced = program.trace(*shapes)
            lowered = traced.lower(lowering_platforms=("tpu",) if on_tpu else None)
        options = cpu_options(tokens) if self._target.form == "cpu" else {}
        return lowered.compile(compiler_options=options)

    def _step(self, geometry: Geometry, scores: bool = False) -> tuple[Any, Any, Any]:
        """Returns the step of one shape, and the shapes of its packed plan."""
        form = self.form(geometry, scores)
        run = partial(run_step, self._config, form, self._target)
        where = self._target.everywhere
        ints, floats = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=where)
            for shape, dtype in zip(form.shapes, (jnp.int32, jnp.float32), strict=True)
        )
        return run, ints, floats


def keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs in a folder, and find them there.

    Args:
      folder: A path, or an address in a bucket (gs://), which JAX asks by gcsfs.

    Raises:
      ConfigError: The folder cannot be made, or gcsfs is not installed.
    """
    if folder.startswith("gs://"):
        require("gcs", "gcsfs")
    else:
        path = Path(folder).expanduser()
        folder = str(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"compiled programs cannot be kept in {path}",
                str(error),
                "name a directory where you may write",
            ) from None
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def state_shapes(
    config: ModelConfig, slots: int, on: Placement | None
) -> tuple[jax.ShapeDtypeStruct, Shapes, Shapes]:
    """Returns the shapes of the newest tokens, the counts and the rules, placed.

    Args:
      config: The model.
      slots: Sequences that run at once, on all data shards.
      on: The mesh, if there is one.
    """

    def shape(dtype: Any, size: tuple[int, ...], *axes: str | None) -> Any:
        place = on.sharding(axes, size) if on else None
        return jax.ShapeDtypeStruct(size, dtype, sharding=place)

    table = (slots, config.vocab_size)
    few = (slots, MAX_BIASES)
    counts = {
        "prompt": shape(jnp.bool_, table, "rows", "vocab"),
        "answer": shape(jnp.int32, table, "rows", "vocab"),
    }
    rules = {
        "masks": shape(jnp.uint32, (slots, words_of(table[1])), "rows", None),
        "biased": shape(jnp.int32, few, "rows", None),
        "biases": shape(jnp.float32, few, "rows", None),
    }
    return shape(jnp.int32, (slots,), None), counts, rules


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns an array's shape, with its placement and layout."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.format)


def _places(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.sharding, shapes)


def _automatic(shape: jax.ShapeDtypeStruct) -> Format:
    place: Any = shape.sharding
    return Format(Layout.AUTO, place.sharding if isinstance(place, Format) else place)


def _unplaced(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype)


def _laid(shape: jax.ShapeDtypeStruct, how: Format) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=how)
