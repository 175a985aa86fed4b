"""Checkpoints of repositories of the hub: fetched, or converted once and kept.

`python -m r1jax.checkpoints` adds, lists and deletes the kept ones; see docs/hub.md.
"""

from r1jax.checkpoints.fetch import Forms, add, fetch
from r1jax.checkpoints.kept import Kept, all_kept, delete

__all__ = ["Forms", "Kept", "add", "all_kept", "delete", "fetch"]
