"""The Hugging Face hub: names of repositories, and what is fetched of them.

Only the files that a model is loaded from are fetched, into the cache that every
program of the hub shares; see docs/hub.md.
"""

from r1jax.hub.fetch import bring_weights, describe
from r1jax.hub.names import RELEASES, Repository, parse

__all__ = ["RELEASES", "Repository", "bring_weights", "describe", "parse"]
