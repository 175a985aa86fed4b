"""How much busier the busiest device is than the mean, by copies of experts.

    python benchmarks/expert_balance.py

R1's sizes: 256 experts, 8 a token. The experts' popularity follows Zipf's law with the
given exponent, in random order; real routing was not at hand. Places are made from the
choices of one sample of tokens and judged by those of another. `reads` is how many
experts the device that reads the most of them reads in a step of 32 tokens: in order,
with 64 copies that few tokens leave alone, and with the copies taking turns. numpy
alone decides; no device is timed.
"""

import argparse
import json

import numpy as np

from r1jax.layers.expert_places import balance, slots

EXPERTS, PER_TOKEN, LAYERS, TOKENS = 256, 8, 8, 16384
COPIES = (0, 32, 64, 128)
FEW, STEPS = 32, 50


def choices(
    rng: np.random.Generator, popularity: np.ndarray, tokens: int
) -> np.ndarray:
    """Draws each token's experts without repetition (Gumbel top-k)."""
    keys = np.log(popularity) + rng.gumbel(size=(tokens, EXPERTS))
    return np.argpartition(-keys, PER_TOKEN, axis=1)[:, :PER_TOKEN]


def counts(rng: np.random.Generator, popularity: np.ndarray) -> np.ndarray:
    """Counts the choices of a sample."""
    chosen = choices(rng, popularity, TOKENS)
    return np.bincount(chosen.ravel(), minlength=EXPERTS)


def reads(
    rng: np.random.Generator, popularity: np.ndarray, places: np.ndarray, share: bool
) -> float:
    """Returns the most slots that a device reads in a step, averaged over steps."""
    table, (devices, own) = slots(places[None])[0], places.shape
    copies = (table >= 0).sum(1)
    most = []
    for _ in range(STEPS):
        chosen = choices(rng, popularity, FEW)
        turn = np.arange(FEW)[:, None] % copies[chosen] if share else 0
        used = np.zeros(devices * own, bool)
        used[table[chosen, turn]] = True
        most.append(used.reshape(devices, own).sum(1).max())
    return float(np.mean(most))


def excess(loads: np.ndarray, places: np.ndarray) -> float:
    """Returns the busiest device's load over the mean, averaged over layers."""
    layers = zip(loads, places, strict=True)
    shares = [load / np.bincount(p.ravel(), minlength=EXPERTS) for load, p in layers]
    by_device = np.stack(
        [share[p].sum(1) for share, p in zip(shares, places, strict=True)]
    )
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
            np.stack([counts(rng, order) for order in orders]) for _ in range(2)
        )
        for devices in args.devices:
            in_order = np.tile(np.arange(EXPERTS), (LAYERS, 1))
            in_order = in_order.reshape(LAYERS, devices, -1)
            line = {"exponent": exponent, "devices": devices}
            line["in order"] = round(excess(met, in_order), 3)
            for copies in COPIES:
                places = balance(counted, devices, copies)
                line[f"{copies} copies"] = round(excess(met, places), 3)
            copied = balance(counted[:1], devices, 64)[0]
            line["reads"] = [
                round(reads(rng, orders[0], places, share), 1)
                for places, share in (
                    (in_order[0], False),
                    (copied, False),
                    (copied, True),
                )
            ]
            print(json.dumps(line))


if __name__ == "__main__":
    main()
