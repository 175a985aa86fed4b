"""What the paged attention kernels share: the cache, the schedule, the core.

Multi-head latent attention in its absorbed form is grouped-query attention with one
key head whose value is the first lanes of the key, so one core serves both.
"""

from r1jax.pallas.paged.pool import Partial, Pool

__all__ = ["Partial", "Pool"]
