"""Which device holds which expert: slots, and copies of the busiest experts.

Every device holds the same number of slots, end to end, and each slot one expert. Where
experts divide over the devices and nothing else is asked for, slot s holds expert s and
nothing of this is used. Otherwise there are more slots than experts, or another order:

    6 experts, 4 devices, 0 and 3 busy    0 1 | 2 3 | 4 0 | 5 3

Each expert has one slot of its own, here in the order 0 1 2 3 4 5, spread evenly over
devices; copies lie behind those. The matrices in memory lie as the slots do, [L, S,
...], and a table beside them tells each expert's slots, so that a step can send a token
to one of the copies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.config import ModelConfig
from r1jax.errors import ConfigError
from r1jax.layers.router import Routes
from r1jax.typing import Array, Int, PyTree, typechecked

Places = Int[np.ndarray, "L devices own"]  # the expert of each slot

# Where the layers with experts are in the parameter tree.
_GROUPS = {"moe_layers": ("moe",), "mtp": ("block", "moe")}
# An expert that was never seen counts as one choice in so many.
_RARE = 10**6


def balance(loads: np.ndarray, devices: int, redundant: int = 0) -> Places:
    """Spreads experts over devices by how often they are chosen.

    After the load balancer that DeepSeek serves with (arXiv 2412.19437, section 3.4.1):
    again and again the expert with the largest share is meant to get one copy more, as
    long as there are slots; a copy's share is its expert's load over the number of
    copies. Then the largest share goes to the least loaded device with room, and so on.

    No expert is twice on one device. The experts' own slots differ by at most one
    between devices. Where nothing is copied, no layer's fullest device gets more than
    with the experts in order. With copies the most that a device gets is not bounded
    so, but skewed loads always gained in tests.

    Args:
      loads: [L, E], how often each expert was chosen; zeros are allowed.
      devices: Over how many the experts are cut.
      redundant: The least number of copies beyond one an expert; at most
        E x (devices - 1). There are ceil((E + redundant) / devices) slots on each
        device, and all are filled.
    """
    slots_each = -(-(loads.shape[1] + redundant) // devices)
    seen = loads + np.maximum(loads.sum(1, keepdims=True), 1) / _RARE
    return np.stack([_balanced(layer, devices, slots_each) for layer in seen])


def _balanced(load: np.ndarray, devices: int, slots_each: int) -> np.ndarray:
    """Returns the experts of one layer's slots, [devices, slots_each]."""
    copies = np.ones(len(load), int)
    for _ in range(devices * slots_each - len(load)):
        share = np.where(copies < devices, load / copies, 0)
        copies[share.argmax()] += 1
    home, held = _packed(load / copies, copies, devices, slots_each)
    if devices * slots_each == len(load):
        in_order = np.eye(devices, dtype=bool).repeat(slots_each, axis=1)
        if (in_order @ load).max() <= (held @ load).max():
            home = held = in_order
    rows = zip(home, held & ~home, strict=True)
    parts = [np.concatenate([np.nonzero(part)[0] for part in row]) for row in rows]
    return np.array(parts, np.int32)


def _packed(
    share: np.ndarray, copies: np.ndarray, devices: int, slots_each: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each expert's own slot is, and where any of it; [devices, E] both.

    A copy that finds only devices that have its expert gives way: in the end each slot
    that is left takes the largest share that its device does not have.
    """
    experts = len(share)
    room = np.full(devices, experts // devices)
    room[: experts % devices] += 1  # for own slots
    spare = slots_each - room  # for copies
    home, held = np.zeros((2, devices, experts), bool)
    largest_first = np.argsort(-share, kind="stable")
    for expert in largest_first.repeat(copies[largest_first]):
        is_copy = held[:, expert].any()
        free = (spare if is_copy else room) > 0
        free &= ~held[:, expert]
        if free.any():
            device = np.where(free, held @ share, np.inf).argmin()
            (spare if is_copy else room)[device] -= 1
            held[device, expert] = True
            home[device, expert] = not is_copy
    for device in np.arange(devices).repeat(spare):
        expert = np.where(held[device], -1, share).argmax()
        held[device, expert] = True
    return home, held


def slots(places: Places) -> Int[np.ndarray, "L E C"]:
    """Returns each expert's slots, its own first, -1 behind those of the fewer ones."""
    layers, _, own = places.shape
    flat, experts = places.reshape(layers, -1), int(places.max()) + 1
    # Own slots come first on each device, and the devices with more of them first.
    order = np.lexsort([np.arange(flat.shape[1]), np.arange(flat.shape[1]) % own])
    found = [
        [order[layer[order] == expert] for expert in range(experts)] for layer in flat
    ]
    most = max(len(copies) for layer in found for copies in layer)
    table = np.full((layers, experts, most), -1, np.int32)
    for found_here, row in zip(found, table, strict=True):
        for copies, cells in zip(found_here, row, strict=True):
            cells[: len(copies)] = copies
    return table


@typechecked
def to_slots(routes: Routes, table: Int[Array, "E C"], share: bool) -> Routes:
    """Sends each token to one slot of each expert it chose.

    Args:
      routes: By expert.
      table: One layer of `slots`.
      share: Whether copies take turns, by the token's number in the step, so that a
        token's copy does not depend on what others chose. If not, all tokens go to
        an expert's own slot: few tokens wait for matrices to be read, and copies would
        be read besides.
    """
    chosen, weights = routes
    if not share:
        return table[chosen, 0], weights
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

    Raises:
      ConfigError: Copies or loads are given where they can be of no use.
    """
    if redundant or loads is not None:
        _check_of_use(config, devices, redundant, loads)
    if config.moe is None:
        return {}
    experts, found = config.moe.experts, {}
    if loads is not None or experts % devices:
        even = np.ones((config.moe_layers, experts))
        wanted = even if loads is None else loads
        found["moe_layers"] = balance(wanted, devices, redundant)
    if config.mtp_layers and experts % devices:
        found["mtp"] = balance(np.ones((config.mtp_layers, experts)), devices)
    return found


def _check_of_use(
    config: ModelConfig, devices: int, redundant: int, loads: np.ndarray | None
) -> None:
    given = "no expert loads" if loads is None else "expert loads"
    asked = f"{redundant} redundant experts and {given} are given"
    if config.moe is None:
        raise ConfigError(
            asked, "the model is dense: it has no experts", "leave both out"
        )
    if devices == 1:
        raise ConfigError(
            asked,
            "one device holds all experts, in any order",
            "leave both out, or load the model on a mesh",
        )
    if loads is None:
        raise ConfigError(
            asked,
            "nothing says which experts are busy enough to be copied",
            "count with tools/count_routes.py, and give its output as expert_loads",
        )
    most = config.moe.experts * (devices - 1)
    if not 0 <= redundant <= most:
        raise ConfigError(
            asked,
            f"{config.moe.experts} experts on each device are 0 to {most} copies",
            f"ask for at most {most}; DeepSeek serves R1's 256 experts with 32",
        )


def arrange(params: PyTree, places: Mapping[str, Places]) -> PyTree:
    """Gives each slot its expert's matrices, and the layers the table of slots.

    Args:
      params: The tree of docs/weights.md, plain or quantised; numpy arrays are copied
        on the host. Under `jax.eval_shape` shapes are arranged.
      places: Of `plan_places`.
    """

    def change(group: str, moe: dict[str, PyTree]) -> dict[str, PyTree]:
        numbers = places[group].reshape(len(places[group]), -1)
        experts = _pick(moe["experts"], numbers)
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
