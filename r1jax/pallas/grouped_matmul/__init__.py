"""Rows sorted by expert, times that expert's matrix."""

from r1jax.pallas.grouped_matmul.api import grouped_matmul
from r1jax.pallas.grouped_matmul.kernel import Blocks

__all__ = ["Blocks", "grouped_matmul"]
