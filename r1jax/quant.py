"""Weights of few bits: values and their scales, one leaf of the parameter tree.

A quantised kernel stands at the same path as a plain one, and whoever multiplies by it
asks what it is. A `Scheme` says which part of a model is stored in which form.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import numpy as np

from r1jax.errors import ConfigError, ShardingError
from r1jax.pallas import dequant
from r1jax.pallas.dequant import Scaling
from r1jax.rounding import round_on_host, round_to, spread
from r1jax.sharding import Placement
from r1jax.typing import Array, PyTree

# int8 and fp8: a scale for each column. fp8_blocks: one for each 128 x 128, as in
# DeepSeek's releases. int4: one for each 256 weights along the sum.
FORMS = ("int8", "fp8", "fp8_blocks", "int4")
PARTS = ("attention", "dense", "experts")
# Kernels that are worth it; the others are small, or products want them whole.
_PROJECTIONS = ("q", "k", "v", "o", "q_down", "q_up", "kv_down", "gate_up", "down")
_GATE_UP = "gate_up"
FLOATS = ("float32", "bfloat16", "float16")

Path = tuple[str, ...]


@flax.struct.dataclass
class QArray:
    """A quantised array.

    Attributes:
      values: The stored numbers: matrices [..., inputs, outputs], as kernels read them.
        A dense gate_up is two of them, [L, 2, D, F]; experts' are [L, E, D, 2, F].
      scales: float32. One for each column: as `values` without the axis of the inputs.
        One for each block: the numbers of blocks in the place of the axes' sizes.
    """

    values: Array
    scales: Array

    @property
    def form(self) -> str:
        """One of `FORMS`."""
        blocked = self.scales.ndim == self.values.ndim
        forms = {"int8": "int8", "int4": "int4"}
        return forms.get(self.values.dtype.name, "fp8_blocks" if blocked else "fp8")


@dataclass(frozen=True)
class Scheme:
    """Which part of a model is stored in which of `FORMS`; None leaves it plain.

    Norms, router, biases, embedding, head, `k_up` and `v_up` are always plain.

    Attributes:
      attention: The projections of attention.
      dense: Feed-forward layers, and the experts that every token uses.
      experts: The routed experts.
    """

    attention: str | None = None
    dense: str | None = None
    experts: str | None = None

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
          ConfigError: A form is unknown.
        """
        for part in PARTS:
            form = getattr(self, part)
            if form is not None and form not in FORMS:
                raise ConfigError(
                    f"{part} weights in {form!r}",
                    f"weights of few bits are {', '.join(FORMS)}",
                    "choose one of them, or leave them plain",
                )

    def form(self, path: Path) -> str | None:
        """Returns how the leaf at a path is stored; None is plain."""
        part = part_of(path)
        return getattr(self, part) if part else None


def scheme(dtype: str, experts: bool = True) -> Scheme | None:
    """Returns what a `--dtype` means; None for plain weights.

    Args:
      dtype: One of `FORMS`, or a float type. With int4 attention is int8, and so are
        dense layers beside experts.
      experts: Whether the model has experts. Without them int4 means its feed-forward.

    Raises:
      ConfigError: The name is unknown.
    """
    if dtype in FLOATS:
        return None
    if dtype not in FORMS:
        raise ConfigError(
            f"dtype is {dtype!r}",
            f"weights are kept as {', '.join((*FLOATS, *FORMS))}",
            "choose one of them",
        )
    if dtype != "int4":
        return Scheme(dtype, dtype, dtype if experts else None)
    return Scheme("int8", "int8", "int4") if experts else Scheme("int8", "int4")


def scheme_of(params: PyTree) -> Scheme | None:
    """Returns the scheme that parameters (or their shapes) follow; None if plain."""
    found: dict[str, str] = {}

    def note(path: Path, leaf: Any) -> None:
        if isinstance(leaf, QArray):
            found[part_of(path)] = leaf.form

    _over(note, params, _is_quantised)
    return Scheme(**found) if found else None


def part_of(path: Path) -> str:
    """Returns which of `PARTS` the leaf at a path belongs to; "" where always plain."""
    if path[-2:-1] == ("experts",):
        return "experts"
    if path[-1:] != ("kernel",) or path[-2] not in _PROJECTIONS:
        return ""
    return "attention" if path[-3:-2] == ("attention",) else "dense"


def quantise(array: Any, summed: int, form: str) -> QArray:
    """Rounds an array (JAX or numpy) to few bits; see `rounding.round_to`."""
    return QArray(*round_to(array, summed, form))


def widen(array: QArray, summed: int) -> Any:
    """Returns the float32 numbers (JAX or numpy) that a quantised array stands for."""
    scales = spread(array.scales, array.values.shape, summed, scaling_of(array, summed))
    return array.values.astype(np.float32) * scales


def factors(array: QArray, summed: int, dtype: Any) -> tuple[Array, Array | None]:
    """Returns the weights to multiply by, and what then multiplies the sums.

    A column's scale multiplies its sum, and the weights are the stored numbers, which
    every dtype holds exactly. Blocks' scales multiply the weights; then there is
    nothing to multiply sums by.

    Args:
      array: What is multiplied by, in plain JAX.
      summed: The axis that the product sums over, counted from the end.
      dtype: Of the weights.
    """
    if array.scales.ndim == array.values.ndim:
        return widen(array, summed).astype(dtype), None
    return array.values.astype(dtype), array.scales


def scaling_of(array: QArray, summed: int) -> Scaling:
    """Returns how many weights share a scale; depth 0 is a whole column.

    Turned matrices, which sum over their last axis, have blocks of one column.
    """
    kind = dequant.FORMS[array.form].scaling
    assert kind is not None
    return Scaling(kind.depth, 1) if summed == -1 else kind


def quantise_leaf(
    path: Path, leaf: Any, form: str, run: Callable[..., Any] = map
) -> QArray:
    """Rounds one large kernel (JAX or numpy), as drawn in docs/weights.md.

    Args:
      path: Where it stands.
      leaf: The kernel, with any number of stacked axes in front, or none.
      form: One of `FORMS`.
      run: For numpy, as `map`; a pool's map lets several threads do it.
    """
    matrices, summed = as_matrices(path, leaf), summed_axis(path)
    if isinstance(leaf, np.ndarray):
        parts: Any = round_on_host(matrices, summed, form, run)
        return QArray(*parts)
    return quantise(matrices, summed, form)


def quantise_tree(params: PyTree, scheme: Scheme | None) -> PyTree:
    """Rounds a tree of plain parameters as a scheme says."""
    if scheme is None:
        return params

    def one(path: Path, leaf: Any) -> Any:
        form = scheme.form(path)
        return quantise_leaf(path, leaf, form) if form else leaf

    return _over(one, params)


def widen_tree(params: PyTree, like: PyTree) -> PyTree:
    """Undoes `quantise_tree`, up to what rounding took: the plain float32 tree.

    Args:
      params: Parameters, some in few bits.
      like: The plain tree, or its shapes.
    """

    def one(path: Path, plain: Any, leaf: Any) -> Any:
        if not isinstance(leaf, QArray):
            return leaf
        wide = widen(leaf, summed_axis(path))
        if part_of(path) != "experts" and path[-2] == _GATE_UP:
            wide = wide.swapaxes(-3, -2)
        return wide.reshape(plain.shape)

    return _over(one, like, None, params)


def quantised_axes(axes: PyTree, scheme: Scheme | None) -> PyTree:
    """Returns the logical axes of what `quantise_tree` makes.

    Blocks of an axis are cut where the axis is.

    Args:
      axes: Those of the plain tree.
      scheme: How it is stored.
    """
    if scheme is None:
        return axes

    def one(path: Path, names: tuple[str | None, ...]) -> Any:
        form = scheme.form(path)
        if not form:
            return names
        if part_of(path) != "experts":
            names = _matrix_axes(path, names)
        kept = list(names)
        if not dequant.FORMS[form].scaling.depth:  # type: ignore[union-attr]
            del kept[summed_axis(path)]
        parts: tuple[Any, Any] = (tuple(names), tuple(kept))
        return QArray(*parts)

    return _over(one, axes, lambda x: isinstance(x, tuple))


def check_cuts(
    array: QArray, summed: int, axes: Sequence[str | None], placement: Placement
) -> None:
    """Checks that a mesh cuts between blocks: a device has whole ones and their scales.

    Args:
      array: Of blocks, or with a scale a column, which any cut leaves whole.
      summed: The axis that products sum over, counted from the end.
      axes: The logical axes of its values.
      placement: The mesh.

    Raises:
      ShardingError: A block would lie on two devices; with the numbers.
    """
    kind = scaling_of(array, summed)
    for axis, block in ((summed, kind.depth), (-1, kind.width)) if kind.depth else ():
        size, name = array.values.shape[axis], axes[axis]
        devices = placement.devices(name) if name else 1
        if devices > 1 and size % (block * devices):
            raise ShardingError(
                f"{array.form} weights of {size} {name!r} over {devices} devices",
                f"{block} of them share a scale, and {size} is not a multiple of "
                f"{block} x {devices}",
                f"cut {name!r} over fewer devices, or choose int8 or fp8, which have a "
                "scale for each column",
            )


def summed_axis(path: Path) -> int:
    """Returns the axis that products with a quantised leaf sum over, from the end."""
    return -3 if path[-2:] == ("experts", _GATE_UP) else -2


def as_matrices(path: Path, kernel: Any) -> Any:
    """Lays a kernel [..., *inputs, *outputs] as matrices; experts' already are."""
    if part_of(path) == "experts":
        return kernel
    name = path[-2]
    if name == _GATE_UP:
        return kernel.swapaxes(-3, -2)
    stacked = kernel.ndim - _axes_of(name)
    rows = math.prod(kernel.shape[stacked : stacked + inputs_of(name)])
    return kernel.reshape(*kernel.shape[:stacked], rows, -1)


def _matrix_axes(path: Path, names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the axes of the matrices: where several were joined, the major one."""
    name = path[-2]
    if name == _GATE_UP:
        return (*names[:-3], names[-2], names[-3], names[-1])
    stacked = len(names) - _axes_of(name)
    first = names[stacked]
    return (*names[:stacked], first, names[stacked + inputs_of(name)])


def inputs_of(name: str) -> int:
    """Returns over how many axes a projection of this name sums."""
    return 2 if name == "o" else 1


def _axes_of(name: str) -> int:
    """Returns how many axes a projection of this name has, without stacked ones."""
    return 2 if name in ("q_down", "kv_down", "down") else 3


def _is_quantised(leaf: Any) -> bool:
    return isinstance(leaf, QArray)


def _over(
    function: Callable[..., Any],
    tree: PyTree,
    is_leaf: Callable[[Any], bool] | None = None,
    *others: PyTree,
) -> PyTree:
    """Maps a function of a leaf's path, as names, the leaf, and those of like trees."""

    def named(path: Any, *leaves: Any) -> Any:
        return function(tuple(key.key for key in path), *leaves)

    return jax.tree_util.tree_map_with_path(named, tree, *others, is_leaf=is_leaf)
