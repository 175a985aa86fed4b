"""What learning carries from step to step, and the compiled step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.config import ModelConfig
from r1jax.engine.steps import CPU_OPTIONS, eigen_option
from r1jax.train import lora
from r1jax.train.batch import Packed
from r1jax.train.lora import Lora
from r1jax.train.loss import Loss, balance_bias, part_of_loss, target_weights
from r1jax.typing import Array, PyTree


@flax.struct.dataclass
class State:
    """Everything that a checkpoint keeps but the place in the data.

    Attributes:
      params: What learns, float32: all parameters, or adapters (`lora.init`).
      opt_state: The optimizer's.
      step: Steps done, int32.
      reference: Parameters to stay near, for reinforcement learning; or None.
      base: The frozen parameters under adapters; None where all learn.
    """

    params: PyTree
    opt_state: PyTree
    step: Array
    reference: PyTree = None
    base: PyTree = None


def create(
    params: PyTree, optimizer: optax.GradientTransformation, base: PyTree = None
) -> State:
    """Makes the first state."""
    return State(params, optimizer.init(params), jnp.int32(0), None, base)


def places(shapes: State, params: PyTree, mesh: Mesh) -> State:
    """Returns a sharding for every leaf of a state.

    Args:
      shapes: The state's.
      params: The shardings of the model's parameters: moments lie where those do.
      mesh: Where all else (adapters, counters) is whole on every device.
    """
    known = {_inner(p): s for p, s in jax.tree_util.tree_leaves_with_path(params)}
    whole = NamedSharding(mesh, PartitionSpec())

    def one(path: Any, leaf: Any) -> Any:
        return known.get(_inner(path), whole) if leaf.ndim else whole

    found: State = jax.tree_util.tree_map_with_path(one, shapes)
    return found


def _inner(path: Any) -> tuple[str, ...]:
    """Returns the names at a path's end, behind whatever the optimizer wraps."""
    names: list[str] = []
    for key in path:
        here = isinstance(key, jax.tree_util.DictKey)
        names = [*names, key.key] if here else []
    return tuple(names)


def compile_options() -> dict[str, Any]:
    """Returns the options to compile steps of training with.

    On a CPU sums in any order, and the library of matrix products that is the faster
    one for a batch's small ones.
    """
    if jax.default_backend() != "cpu":
        return {}
    return CPU_OPTIONS | eigen_option()


def whole_params(state: State, adapters: Lora | None) -> PyTree:
    """Returns the model's parameters, adapters merged."""
    if state.base is None or adapters is None:
        return state.params
    return lora.merge(state.base, state.params, adapters)


def make_step(
    config: ModelConfig,
    settings: Loss,
    optimizer: optax.GradientTransformation,
    adapters: Lora | None = None,
) -> Callable[[State, Packed], tuple[State, dict[str, Any]]]:
    """Makes one step of supervised learning.

    Returns:
      A function, to be compiled with its first argument donated, of a state and a batch
      whose leaves have a leading axis of parts [A, B, S]: gradients are added up over
      the parts, and equal those of all at once. It returns the next state and numbers
      of the step.
    """

    def step(state: State, batch: Packed) -> tuple[State, dict[str, Any]]:
        parts = batch.tokens.shape[0]
        totals = target_weights(batch)

        def loss(params: PyTree, packed: Packed) -> tuple[Array, dict[str, Any]]:
            if adapters is not None:
                params = lora.merge(state.base, params, adapters)
            return part_of_loss(
                config, settings, params, packed, totals, parts, state.step
            )

        def one(packed: Packed) -> tuple[PyTree, dict[str, Any]]:
            (_, numbers), slope = jax.value_and_grad(loss, has_aux=True)(
                state.params, packed
            )
            return slope, numbers

        def add(total: Any, packed: Packed) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(packed)), None

        first = one(jax.tree.map(lambda a: a[0], batch))
        rest = jax.tree.map(lambda a: a[1:], batch)
        slopes, numbers = jax.lax.scan(add, first, rest)[0] if parts > 1 else first
        loads = numbers.pop("loads")
        updates, opt_state = optimizer.update(slopes, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if adapters is None and settings.bias_speed:
            speed = settings.bias_speed_at(state.step)
            params = balance_bias(params, loads, speed)
        numbers["gradient_norm"] = optax.tree.norm(slopes)
        if loads:
            every = jnp.concatenate(list(loads.values()))
            mean = jnp.maximum(every.mean(axis=1), 1e-9)
            numbers["busiest_expert"] = (every.max(axis=1) / mean).max()
        after = State(params, opt_state, state.step + 1, state.reference, state.base)
        return after, numbers

    return step
