"""Activations times weights of few bits."""

from r1jax.pallas.quant_matmul.api import quant_matmul
from r1jax.pallas.quant_matmul.kernel import Blocks

__all__ = ["Blocks", "quant_matmul"]
