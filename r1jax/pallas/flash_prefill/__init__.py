"""Causal attention of long chunks behind a cached prefix."""

from r1jax.pallas.flash_prefill.api import Share, flash_prefill
from r1jax.pallas.flash_prefill.blocks import Blocks

__all__ = ["Blocks", "Share", "flash_prefill"]
