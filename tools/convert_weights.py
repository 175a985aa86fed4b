"""Converts weights, from a checkout: the same as `python -m r1jax.convert`."""

import sys

from r1jax.convert import main

if __name__ == "__main__":
    sys.exit(main())
