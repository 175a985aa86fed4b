"""Which device holds which expert: slots, and copies of the busiest experts.

Every device holds the same number of slots, end to end, and each slot one expert. Where
experts divide over the devices and nothing else is asked for, slot s holds expert s and
nothing of this is used. Otherwise there are more slots than experts, or another order:

    6 experts, 4 devices, 0 and 3 busy    places  0 4 | 0 5 | 1 3 | 2 3

The matrices in memory then lie as the slots do, [L, S, ...], and a table beside them
tells each expert's slots, so that a step can send a token to one of the copies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.config import ModelConfig
from r1jax.layers.router import Routes
from r1jax.typing import Array, Int, PyTree, typechecked

Places = Int[np.ndarray, "L S"]  # the expert of each slot

# Where the layers with experts are in the parameter tree.
_GROUPS = {"moe_layers": ("moe",), "mtp": ("block", "moe")}
# An expert that was never seen counts as one choice in so many.
_RARE = 10**6


def balance(loads: np.ndarray, devices: int, redundant: int = 0) -> Places:
    """Spreads experts over devices by how often they are chosen.

    After the load balancer that DeepSeek serves with (arXiv 2412.19437, section 3.4.1):
    again and again the expert with the largest share gets one copy more, until all
    slots are filled; a copy's share is its expert's load over the number of copies.
    Then the largest share goes to the least loaded device with a free slot, and so on.

    No expert is twice on one device. Where nothing is copied, no layer's fullest device
    gets more than with the experts in order. With copies the most that a device gets
    is not bounded so, but skewed loads always gained in tests.

    Args:
      loads: [L, E], how often each expert was chosen; zeros are allowed.
      devices: Over how many the experts are cut.
      redundant: The least number of copies beyond one an expert; at most
        E x (devices - 1). There are ceil((E + redundant) / devices) slots on each
        device, and all are filled.
    """
    own = -(-(loads.shape[1] + redundant) // devices)
    seen = loads + np.maximum(loads.sum(1, keepdims=True), 1) / _RARE
    return np.stack([_balanced(layer, devices, own) for layer in seen])


def _balanced(load: np.ndarray, devices: int, own: int) -> np.ndarray:
    """Returns the experts of one layer's slots."""
    copies = np.ones(len(load), int)
    for _ in range(devices * own - len(load)):
        share = np.where(copies < devices, load / copies, 0)
        copies[share.argmax()] += 1
    held = _packed(load / copies, copies, devices, own)
    if devices * own == len(load):
        in_order = np.eye(devices, dtype=bool).repeat(own, axis=1)
        if (in_order @ load).max() <= (held @ load).max():
            held = in_order
    return np.nonzero(held)[1].astype(np.int32)


def _packed(
    share: np.ndarray, copies: np.ndarray, devices: int, own: int
) -> np.ndarray:
    """Returns which device holds which expert, [devices, E], the largest dealt first.

    When only devices that have an expert already are free, one that has it not gives up
    another of its own to them.
    """
    held = np.zeros((devices, len(share)), bool)
    largest_first = np.argsort(-share, kind="stable")

    def least(among: np.ndarray) -> int:
        return int(np.where(among, held @ share, np.inf).argmin())

    for expert in largest_first.repeat(copies[largest_first]):
        free, without = held.sum(1) < own, ~held[:, expert]
        taker = least(free & without if (free & without).any() else without)
        if not free[taker]:
            giver, taken_up = taker, least(free)
            moved = np.where(held[giver] & ~held[taken_up], share, -1).argmax()
            held[giver, moved], held[taken_up, moved] = False, True
        held[taker, expert] = True
    return held


def slots(places: Places) -> Int[np.ndarray, "L E C"]:
    """Returns the slots of each expert's copies, -1 behind those of the fewer ones."""
    experts = int(places.max()) + 1
    found = [[np.nonzero(layer == e)[0] for e in range(experts)] for layer in places]
    most = max(len(copies) for layer in found for copies in layer)
    table = np.full((len(places), experts, most), -1, np.int32)
    for layer, row in zip(found, table, strict=True):
        for copies, cells in zip(layer, row, strict=True):
            cells[: len(copies)] = copies
    return table


@typechecked
def to_slots(routes: Routes, table: Int[Array, "E C"]) -> Routes:
    """Sends each token to one slot of each expert it chose.

    Copies take turns by the token's number in the step, so they share the load, and a
    token's copy does not depend on what other tokens chose.

    Args:
      routes: By expert.
      table: One layer of `slots`.
    """
    chosen, weights = routes
    copies = (table >= 0).sum(axis=1)
    turn = jnp.arange(len(chosen))[:, None] % copies[chosen]
    return table[chosen, turn], weights


def plan_places(
    config: ModelConfig,
    devices: int,
    redundant: int = 0,
    loads: np.ndarray | None = None,
) -> dict[str, Places]:
    """Returns the places of each group of layers that does not have experts in order.

    Args:
      config: The model.
      devices: Over how many experts are cut.
      redundant: Copies, see `balance`. Multi-token-prediction layers get none.
      loads: Of the layers with experts, [L, E]; even ones if left out.
    """
    if config.moe is None:
        return {}
    experts, found = config.moe.experts, {}
    if loads is not None or redundant or experts % devices:
        even = np.ones((config.moe_layers, experts))
        wanted = even if loads is None else loads
        found["moe_layers"] = balance(wanted, devices, redundant)
    if config.mtp_layers and experts % devices:
        found["mtp"] = balance(np.ones((config.mtp_layers, experts)), devices)
    return found


def arrange(params: PyTree, places: Mapping[str, Places]) -> PyTree:
    """Gives each slot its expert's matrices, and the layers the table of slots.

    Args:
      params: The tree of docs/weights.md, plain or quantised; numpy arrays are copied
        on the host. Under `jax.eval_shape` shapes are arranged.
      places: Of `plan_places`.
    """

    def change(group: str, moe: dict[str, PyTree]) -> dict[str, PyTree]:
        experts = _pick(moe["experts"], places[group])
        return {**moe, "experts": experts, "slots": slots(places[group])}

    return _in_moe(params, places, change)


def restore(params: PyTree) -> PyTree:
    """Undoes `arrange`: of an expert's copies the first is taken."""

    def change(group: str, moe: dict[str, PyTree]) -> dict[str, PyTree]:
        if "slots" not in moe:
            return moe
        others = {name: part for name, part in moe.items() if name != "slots"}
        return {**others, "experts": _pick(moe["experts"], moe["slots"][:, :, 0])}

    return _in_moe(params, _GROUPS, change)


def arranged_axes(axes: PyTree, places: Mapping[str, Places]) -> PyTree:
    """Returns the logical axes of what `arrange` makes, from those of what it takes."""
    table = ("layers", "router", None)
    return _in_moe(axes, places, lambda _, moe: {**moe, "slots": table})


def _pick(experts: PyTree, numbers: Any) -> PyTree:
    """Takes matrices [L, E, ...] by their numbers [L, S], layer by layer."""
    layers = np.arange(len(numbers))[:, None]
    return jax.tree.map(lambda leaf: leaf[layers, numbers], experts)


def _in_moe(tree: PyTree, groups: Iterable[str], change: Callable[..., Any]) -> PyTree:
    """Changes the part with experts of some groups, where the tree has them."""

    def inside(part: PyTree, path: tuple[str, ...], group: str) -> PyTree:
        if not path:
            return change(group, part)
        return {**part, path[0]: inside(part[path[0]], path[1:], group)}

    changed = {g: inside(tree[g], _GROUPS[g], g) for g in groups if g in tree}
    return {**tree, **changed}
