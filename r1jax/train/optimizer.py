"""Optimizers and the learning rate: warm-up, then a cosine."""

from dataclasses import dataclass
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from r1jax.errors import ConfigError
from r1jax.quant import inputs_of
from r1jax.typing import PyTree

NAMES = ("adamw", "muon")


@dataclass(frozen=True)
class Optimizer:
    """How parameters are moved.

    Attributes:
      name: "adamw", or "muon" (arXiv 2502.16982): matrices of the layers by Muon, the
        rest (embedding, head, router, norms, biases) by Adam.
      learning_rate: The highest one.
      adam_learning_rate: Of what Muon leaves to Adam; unused by "adamw".
      final_fraction: The last learning rate as a share of the highest (0.1 in R1).
      warmup_steps: Steps in which the rate rises linearly; at least one, because Adam's
        first full step would move every parameter by the whole rate.
      steps: When the cosine ends.
      beta1: Adam's decay of the mean gradient.
      beta2: Adam's decay of the mean square.
      weight_decay: Of matrices, times the learning rate.
      clip: Largest norm of the whole gradient.
    """

    name: str
    learning_rate: float
    adam_learning_rate: float
    final_fraction: float
    warmup_steps: int
    steps: int
    beta1: float
    beta2: float
    weight_decay: float
    clip: float

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(
                f"optimizer.name is {self.name!r}",
                f"there are {' and '.join(NAMES)}",
                "choose one of them",
            )
        if min(self.learning_rate, self.adam_learning_rate, self.clip) <= 0:
            raise ConfigError(
                f"optimizer.learning_rate is {self.learning_rate}, adam_learning_rate "
                f"{self.adam_learning_rate}, clip {self.clip}",
                "with one of them at 0 or below nothing is learnt",
                "choose them above 0",
            )
        if not 1 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"{self.warmup_steps} warm-up steps of {self.steps}",
                "without a warm-up the first step of Adam moves every parameter by the "
                "full learning rate; and the cosine needs steps too",
                "set optimizer.warmup_steps from 1 to less than steps",
            )


def schedule(settings: Optimizer, highest: float | None = None) -> optax.Schedule:
    """Returns the learning rate by step (0 is the first)."""
    top = settings.learning_rate if highest is None else highest
    return optax.warmup_cosine_decay_schedule(
        init_value=top / settings.warmup_steps,
        peak_value=top,
        warmup_steps=settings.warmup_steps,
        decay_steps=settings.steps,
        end_value=top * settings.final_fraction,
    )


def build(settings: Optimizer) -> optax.GradientTransformation:
    """Makes the optimizer of a tree of parameters, or of adapters."""
    rate = schedule(settings)
    if settings.name == "muon":
        chosen = muon(
            rate,
            adam_learning_rate=schedule(settings, settings.adam_learning_rate),
            adam_b1=settings.beta1,
            adam_b2=settings.beta2,
            weight_decay=settings.weight_decay,
            weight_decay_mask=_matrices,
            muon_weight_dimension_numbers=_dimensions,
        )
    else:
        chosen = optax.adamw(
            rate,
            settings.beta1,
            settings.beta2,
            weight_decay=settings.weight_decay,
            mask=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip), chosen)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(k.key for k in path)


def _matrices(params: PyTree) -> PyTree:
    """Marks what decays: no norms and no biases."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _names(path)[-1] not in ("scale", "bias"), params
    )


def _dimensions(params: PyTree) -> PyTree:
    """Says which axes of a leaf make a matrix; the others count matrices."""

    def one(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        *_, owner, name = _names(path)
        last = leaf.ndim - 1
        if owner == "experts":
            return MuonDimensionNumbers(2, last)
        if name != "kernel" or owner in ("router", "lm_head"):
            return None
        inputs = inputs_of(owner)
        first = 3 if owner == "gate_up" else 1 + inputs
        outputs = tuple(range(first, leaf.ndim))
        return MuonDimensionNumbers(tuple(range(1, 1 + inputs)), outputs)

    return jax.tree_util.tree_map_with_path(one, params)
