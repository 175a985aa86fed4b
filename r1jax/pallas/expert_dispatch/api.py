"""Tokens to the devices that hold their experts, and back; none is ever dropped.

Called inside shard_map, by each device on its own tokens:

    plan = make_plan(chosen, experts=256, axis=Axis("expert", 8))
    rows, sizes = dispatch(x, plan, backend=backend)  # [M, D], one size an own expert
    y = combine(run_experts(rows, sizes), weights, plan, backend=backend)  # [T, D]

M is static. Unless told otherwise it is `most_rows`: what arrives if all tokens of all
devices choose this one. With less room the same is done in windows, one after another,
as many as the fullest device needs, which is usually one:

    def add(window, y):
        rows, sizes = dispatch(x, plan, capacity=4096, window=window, backend=backend)
        out = run_experts(rows, sizes)
        return y + combine(out, weights, plan, window=window, backend=backend)

    y = jax.lax.fori_loop(0, plan.windows(4096), add, zeros)
"""

from typing import Literal

import jax.numpy as jnp

from r1jax.errors import ConfigError
from r1jax.pallas.backend import Backend
from r1jax.pallas.expert_dispatch import kernel, ragged, reference, weigh
from r1jax.pallas.expert_dispatch import plan as plans
from r1jax.pallas.expert_dispatch import rows as layout
from r1jax.pallas.expert_dispatch.plan import Axis, Plan
from r1jax.typing import Array, Float, Int, typechecked

Form = Literal["reference", "ragged", "kernel"]
# The most devices for which XLA's TPU compiler takes a ragged_all_to_all; more have
# "limited ICI routing". Chips that are not here have no limit that was met.
_RAGGED_DEVICES = {"v5e": 8}
_SMEM = 512 * 1024  # bytes of tables that the kernel may keep there


def pick(backend: Backend, axis: Axis) -> Form:
    """Returns the form that runs, unless the caller names one.

    XLA's collective where the compiler takes it, and the kernel where it does not. Both
    need a single slice; across slices name "reference".
    """
    if backend.kind == "interpret":
        return "kernel"
    if backend.kind != "tpu" or backend.chip is None:
        return "reference"
    limit = _RAGGED_DEVICES.get(backend.chip.name, axis.size)
    return "ragged" if axis.size <= limit else "kernel"


def most_rows(tokens: int, per_token: int, *, experts: int, axis: Axis) -> int:
    """Returns the most rows that can arrive at one device.

    Args:
      tokens: On each device.
      per_token: Experts that a token chooses, none of them twice.
      experts: On all devices.
      axis: Over which they are cut.
    """
    return axis.size * tokens * min(per_token, experts // axis.size)


@typechecked
def make_plan(chosen: Int[Array, "T X"], *, experts: int, axis: Axis) -> Plan:
    """Plans a dispatch and its combine; exchanges one small array of counts.

    Args:
      chosen: The experts of each of this device's tokens, by global number. A number
        outside 0 to `experts` - 1 chooses none: so a batch is padded.
      experts: On all devices; device i has the i-th of equal parts of them.
      axis: Over which they are cut.

    Raises:
      ConfigError: The experts cannot be cut in equal parts.
    """
    if experts % axis.size:
        raise ConfigError(
            f"{experts} experts do not divide over {axis.size} devices ({axis.name})",
            "each device holds the same number of experts",
            f"use a number of devices that divides {experts}",
        )
    return plans.make(chosen, experts, axis)


@typechecked
def dispatch(
    x: Float[Array, "T D"],
    plan: Plan,
    *,
    capacity: int | None = None,
    window: Array | int = 0,
    backend: Backend,
    form: Form | None = None,
) -> tuple[Float[Array, "M D"], Int[Array, " own"]]:
    """Returns the rows of this device's experts, sorted by expert, and their numbers.

    Args:
      x: This device's tokens.
      plan: Of `make_plan`.
      capacity: M, rows that there is room for; `most_rows` when not given.
      window: Which `capacity` rows of all that arrive. There are
        `plan.windows(capacity)` of them, and all must be run for nothing to be lost.
      backend: Says what runs, with the axis, unless `form` does.
      form: Overrides the choice.

    Returns:
      Rows [M, D], those after the last expert's holding anything, even NaN, and the
      number of each own expert's rows, ready for a grouped matmul.

    Raises:
      ConfigError: The form cannot run with these sizes.
    """
    axis, form = plan.axis, form or pick(backend, plan.axis)
    if capacity is None:
        per_token = plan.chosen.shape[1]
        capacity = most_rows(len(x), per_token, experts=plan.experts, axis=axis)
    if form == "reference":
        return reference.dispatch(x, plan.chosen, plan.own, axis, capacity, window)
    sizes, runs = plan.sizes(capacity, window), plan.outward(capacity, window)
    if form == "ragged":
        return ragged.exchange(x[plan.token], runs, axis, capacity), sizes
    _check(x, plan, backend)
    wire = layout.as_wire(x)
    landed = kernel.exchange(wire, runs, plan.token, axis, capacity, backend)
    return layout.unpack(landed, sizes.sum(), backend), sizes


@typechecked
def combine(
    rows: Float[Array, "M D"],
    weights: Float[Array, "T X"],
    plan: Plan,
    *,
    window: Array | int = 0,
    backend: Backend,
    form: Form | None = None,
) -> Float[Array, "T D"]:
    """Returns the rows to their tokens, weighted and summed in float32.

    Args:
      rows: What the experts made of `dispatch`'s rows, in the same order. Those after
        the last expert's are not looked at.
      weights: Of each choice.
      plan: The same.
      window: The same. The sum of all windows' results is the result.
      backend: The same.
      form: The same.

    Returns:
      Float32; zero for a token without rows in this window.

    Raises:
      ConfigError: The form cannot run with these sizes.
    """
    axis, form = plan.axis, form or pick(backend, plan.axis)
    capacity = len(rows)
    weights = weights.astype(jnp.float32)
    if form == "reference":
        return reference.combine(rows, weights, plan.chosen, plan.own, axis, window)
    runs, taken = plan.homeward(capacity, window), plan.taken(capacity, window)
    if form == "ragged":
        home = ragged.exchange(rows, runs, axis, plan.token.size)
        terms = home[plan.position].astype(jnp.float32) * weights[:, :, None]
        return jnp.where(taken[:, :, None], terms, 0).sum(1)
    _check(rows, plan, backend)
    wire = layout.pack(rows, plan.sizes(capacity, window).sum(), backend)
    home = kernel.exchange(wire, runs, None, axis, plan.token.size, backend)
    return weigh.total(home, plan.position, taken, weights, backend)


def _check(x: Array, plan: Plan, backend: Backend) -> None:
    """Refuses what the kernel cannot do."""
    itemsize, width = x.dtype.itemsize, x.shape[1]
    size = width * itemsize
    if itemsize > 4 or width % (512 // itemsize):
        raise ConfigError(
            f"rows of {width} {x.dtype} cannot be copied alone",
            f"a row must fill whole registers of 512 bytes; this has {size:,} bytes",
            "use form='ragged' or 'reference', or another width",
        )
    tables = 4 * (3 * plan.experts + plan.token.size)
    if tables > _SMEM:
        raise ConfigError(
            f"{plan.token.size:,} choices on a device need {tables:,} bytes of tables",
            f"the kernel may keep {_SMEM:,} bytes in scalar memory",
            "dispatch fewer tokens at a time, or use form='ragged'",
        )
