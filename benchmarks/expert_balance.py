"""How much busier the busiest device is than the mean, by copies of experts.

    python benchmarks/expert_balance.py

R1's sizes: 256 experts, 8 a token. The experts' popularity follows Zipf's law with the
given exponent, in random order; real routing was not at hand. Places are made from the
choices of one sample of tokens and judged by those of another. numpy alone decides; no
device is timed.
"""

import argparse
import json

import numpy as np

from r1jax.layers.expert_places import balance

EXPERTS, PER_TOKEN, LAYERS, TOKENS = 256, 8, 8, 16384
COPIES = (0, 32, 64, 128)


def choices(rng: np.random.Generator, popularity: np.ndarray) -> np.ndarray:
    """Draws tokens' experts without repetition (Gumbel top-k); counts them."""
    noise = rng.gumbel(size=(TOKENS, EXPERTS))
    keys = np.log(popularity) + noise
    chosen = np.argpartition(-keys, PER_TOKEN, axis=1)[:, :PER_TOKEN]
    return np.bincount(chosen.ravel(), minlength=EXPERTS)


def excess(loads: np.ndarray, places: np.ndarray, devices: int) -> float:
    """Returns the busiest device's load over the mean, averaged over layers."""
    copies = np.stack([np.bincount(layer, minlength=EXPERTS) for layer in places])
    shares = np.take_along_axis(loads / copies, places, axis=1)
    by_device = shares.reshape(len(loads), devices, -1).sum(2)
    return float((by_device.max(1) / by_device.mean(1)).mean())


def main() -> None:
    """Prints one JSON line for each exponent and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--exponents", type=float, nargs="+", default=[0.3, 0.6, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    for exponent in args.exponents:
        law = (1.0 + np.arange(EXPERTS)) ** -exponent
        orders = [rng.permutation(law) for _ in range(LAYERS)]
        counted, met = (
            np.stack([choices(rng, order) for order in orders]) for _ in range(2)
        )
        in_order = np.tile(np.arange(EXPERTS), (LAYERS, 1))
        for devices in args.devices:
            line = {"exponent": exponent, "devices": devices}
            line["in order"] = round(excess(met, in_order, devices), 3)
            for copies in COPIES:
                places = balance(counted, devices, copies)
                line[f"{copies} copies"] = round(excess(met, places, devices), 3)
            print(json.dumps(line))


if __name__ == "__main__":
    main()
