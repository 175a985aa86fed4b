"""Grouped-query attention over the paged cache of keys and values."""

from r1jax.pallas.gqa_attention.api import decode, mixed

__all__ = ["decode", "mixed"]
