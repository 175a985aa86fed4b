"""One of several processes: python logits.py CHECKPOINT OUT COORDINATOR COUNT INDEX."""

import sys

import numpy as np

import r1jax
from r1jax import hosts

TOKENS = tuple(range(3, 40))


def main(checkpoint: str, out: str, coordinator: str, count: str, index: str) -> None:
    """Computes logits with the others; each process writes those that it got."""
    cluster = hosts.Cluster(coordinator, int(count), int(index))
    with hosts.join(cluster, timeout=60) as others:
        llm = r1jax.load(checkpoint, hosts=others, max_model_len=64, page_size=16)
        np.save(f"{out}/{index}.npy", llm.logits(TOKENS))


if __name__ == "__main__":
    main(*sys.argv[1:])
