"""Experts by kernels: each device multiplies by its own, over any mesh.

For few tokens every device sees all of them, and the sums are added up between devices.
For many, tokens travel to the devices that hold their experts and back.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from r1jax.layers.linear import Stacked
from r1jax.layers.router import Routes
from r1jax.pallas.backend import Backend
from r1jax.pallas.expert_dispatch import Axis, combine, dispatch, make_plan, most_rows
from r1jax.pallas.grouped_matmul import grouped_matmul
from r1jax.quant import QArray
from r1jax.sharding import Placement
from r1jax.typing import Array, Float, Int

# Of all devices together. docs/decisions.md has the arithmetic.
TRAVELLERS = 256

Form = Literal["stay", "travel"]


class Matrices(NamedTuple):
    """All layers' experts: gate and up [L, E, D, 2, F], down [L, E, F, D]."""

    gate_up: Array | QArray
    down: Array | QArray


def experts_by_kernels(
    x: Float[Array, "T D"],
    gate_up: Stacked,
    down: Stacked,
    routes: Routes,
    form: Form | None = None,
) -> Float[Array, "T D"]:
    """Sums each token's chosen experts, weighed; sums are float32.

    Args:
      x: Tokens.
      gate_up: The first matrices of the experts, with those of other layers.
      down: The second.
      routes: Of the tokens; a number below 0 chooses none.
      form: Whether tokens stay or travel on a mesh; by their number if left out.
    """
    matrices, layer = Matrices(gate_up.stack, down.stack), gate_up.layer
    on = gate_up.target
    if on.placement is None:
        experts = _Experts(matrices, layer, on.backend)
        return _sum_here(x, routes, experts, jnp.int32(0)).astype(x.dtype)
    p = on.placement
    axis = Axis(p.mesh_axes("experts"), p.devices("experts"))
    run = _travelling if (form or pick(len(x), axis.size)) == "travel" else _staying
    return run(x, routes, matrices, layer, p, axis, on.backend).astype(x.dtype)


def pick(tokens: int, devices: int) -> Form:
    """Returns what tokens do when their experts are cut over devices.

    Staying costs every device something for each token of all; travelling mostly costs
    a fixed time, so it is their whole number that counts, whatever the devices.
    """
    return "travel" if devices > 1 and tokens >= TRAVELLERS else "stay"


@dataclass(frozen=True)
class _Experts:
    """The experts of one device."""

    matrices: Matrices
    layer: Array
    backend: Backend

    @property
    def count(self) -> int:
        """How many."""
        return _values(self.matrices.down).shape[1]

    def __call__(
        self, rows: Float[Array, "M D"], sizes: Int[Array, " E"]
    ) -> Float[Array, "M D"]:
        """Applies each expert to its rows, sorted by expert."""
        for matrix, fused in zip(self.matrices, (True, False), strict=True):
            rows = grouped_matmul(
                rows,
                sizes,
                _values(matrix),
                scales=matrix.scales if isinstance(matrix, QArray) else None,
                fused=fused,
                layer=self.layer,
                backend=self.backend,
            )
        return rows


def _values(matrix: Array | QArray) -> Array:
    return matrix.values if isinstance(matrix, QArray) else matrix


def _sum_here(
    x: Array, routes: Routes, experts: _Experts, first: Array
) -> Float[Array, "T D"]:
    """Sums what the experts from number `first` on give, float32."""
    chosen, weights = routes
    tokens, per_token = chosen.shape
    local = chosen - first
    mine = (local >= 0) & (local < experts.count)
    key = jnp.where(mine, local, experts.count).reshape(-1)
    order = jnp.argsort(key, stable=True)
    most = tokens * min(per_token, experts.count)
    sizes = (key[:, None] == jnp.arange(experts.count)[None]).sum(0, dtype=jnp.int32)
    rows = experts(x[order[:most] // per_token], sizes)
    place = jnp.minimum(jnp.argsort(order), most - 1).reshape(tokens, per_token)
    terms = rows[place].astype(jnp.float32) * weights[:, :, None]
    return jnp.where(mine[:, :, None], terms, 0).sum(1)


def _staying(
    x: Array,
    routes: Routes,
    matrices: Matrices,
    layer: Array,
    placement: Placement,
    axis: Axis,
    backend: Backend,
) -> Float[Array, "T D"]:
    """Every device sees every token; their sums are added up.

    Between devices in the tokens' dtype, as the sums of every other cut product are.
    """
    tokens = placement.mesh_axes("tokens")
    others = tuple(name for name in axis.names if name not in tokens)
    shared = tuple(name for name in axis.names if name in tokens)

    def local(x: Array, routes: Routes, matrices: Matrices, layer: Array) -> Array:
        experts = _Experts(matrices, layer, backend)
        if shared:
            x, routes = _gather(x, routes, shared)
        total = _sum_here(x, routes, experts, axis.here * experts.count)
        total = total.astype(x.dtype)
        if shared:  # first: what is then added up is only a device's own tokens
            total = jax.lax.psum_scatter(total, shared, tiled=True)
        return jax.lax.psum(total, others) if others else total

    whole = PartitionSpec()
    inputs = PartitionSpec(shared or None)
    specs = (inputs, (inputs, inputs), _specs(matrices, placement), whole)
    return placement.on_each(local, specs, inputs)(x, routes, matrices, layer)


def _gather(
    x: Array, routes: Routes, axes: tuple[str, ...]
) -> tuple[Float[Array, "T D"], Routes]:
    """Returns all devices' tokens with their routes, in one exchange."""
    parts = [jax.lax.bitcast_convert_type(x, _word(x))]
    for route in routes:
        words = jax.lax.bitcast_convert_type(route, _word(x))
        parts.append(words.reshape(len(x), -1))
    joined = jax.lax.all_gather(jnp.concatenate(parts, axis=1), axes, tiled=True)
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    tokens, *rest = jnp.split(joined, ends, axis=1)
    found = []
    for route, words in zip(routes, rest, strict=True):
        apart = words.reshape(len(words), route.shape[1], -1)
        if apart.shape[2] == 1:
            apart = apart[:, :, 0]
        found.append(jax.lax.bitcast_convert_type(apart, route.dtype))
    return jax.lax.bitcast_convert_type(tokens, x.dtype), (found[0], found[1])


def _word(x: Array) -> Any:
    """Returns the unsigned integer as wide as a value of x."""
    return jnp.dtype(f"uint{8 * x.dtype.itemsize}")


def _travelling(
    x: Array,
    routes: Routes,
    matrices: Matrices,
    layer: Array,
    placement: Placement,
    axis: Axis,
    backend: Backend,
) -> Float[Array, "T D"]:
    """Tokens go to their experts' devices and back, in as many windows as it takes.

    Devices that hold the same tokens send a part of them each.
    """
    experts = _values(matrices.down).shape[1]
    tokens = placement.mesh_axes("tokens")
    same = tuple(name for name in axis.names if name not in tokens)
    holders = math.prod(placement.mesh.shape[name] for name in same)

    def part(array: Array, padding: int = 0) -> Array:
        more = -len(array) % holders
        padded = jnp.pad(array, ((0, more), (0, 0)), constant_values=padding)
        size = len(padded) // holders
        here = jax.lax.axis_index(same) if same else 0
        return jax.lax.dynamic_slice_in_dim(padded, here * size, size)

    def local(x: Array, routes: Routes, matrices: Matrices, layer: Array) -> Array:
        mine, chosen, weights = part(x), part(routes[0], -1), part(routes[1])
        plan = make_plan(chosen, experts=experts, axis=axis)
        most = most_rows(*chosen.shape, experts=experts, axis=axis)
        capacity = min(most, 2 * chosen.size)  # twice what comes on the average

        def add(window: Array, total: Array) -> Array:
            rows, sizes = dispatch(
                mine, plan, capacity=capacity, window=window, backend=backend
            )
            out = _Experts(matrices, layer, backend)(rows, sizes)
            some = combine(out, weights, plan, window=window, backend=backend)
            return total + some

        zeros = jnp.zeros(mine.shape, jnp.float32)
        total = jax.lax.fori_loop(0, plan.windows(capacity), add, zeros)
        total = total.astype(x.dtype)
        if same:
            total = jax.lax.all_gather(total, same, tiled=True)
        return total[: len(x)]

    cut, whole = PartitionSpec(tokens or None), PartitionSpec()
    inputs = (cut, (cut, cut), _specs(matrices, placement), whole)
    return placement.on_each(local, inputs, cut)(x, routes, matrices, layer)


def _specs(matrices: Matrices, placement: Placement) -> Matrices:
    """Returns where the experts lie: whole ones, each on one device."""

    def cut(array: Array) -> PartitionSpec:
        rest = [None] * (array.ndim - 2)
        return placement.spec(("layers", "experts", *rest), array.shape)

    return jax.tree.map(cut, matrices)
