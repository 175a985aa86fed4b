"""Tensors at rest: opening, converting and restoring checkpoints."""

from r1jax.weights.convert import Report, convert
from r1jax.weights.expert_loads import read_expert_loads, save_expert_loads
from r1jax.weights.source import Source, open_source
from r1jax.weights.store import restore

__all__ = [
    "Report",
    "Source",
    "convert",
    "open_source",
    "read_expert_loads",
    "restore",
    "save_expert_loads",
]
