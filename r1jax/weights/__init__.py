"""Tensors at rest: opening, converting, checking and restoring checkpoints."""

from r1jax.weights.convert import Report, convert
from r1jax.weights.expert_loads import read_expert_loads, save_expert_loads
from r1jax.weights.export import to_hf
from r1jax.weights.source import Source, open_source
from r1jax.weights.store import restore
from r1jax.weights.verify import verify

__all__ = [
    "Report",
    "Source",
    "convert",
    "open_source",
    "read_expert_loads",
    "restore",
    "save_expert_loads",
    "to_hf",
    "verify",
]
