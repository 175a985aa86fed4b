"""Absorbed attention over the paged latent cache."""

from r1jax.pallas.mla_attention.api import decode, mixed

__all__ = ["decode", "mixed"]
