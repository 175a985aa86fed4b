"""Rotary positions: frequencies (plain, YaRN, llama3) and their application."""

import math

import jax.numpy as jnp
import numpy as np

from r1jax.config import Llama3Scaling, RopeConfig, Yarn
from r1jax.typing import Array, Float, Int, typechecked

Rotation = tuple[Float[Array, "T R2"], Float[Array, "T R2"]]


def frequencies(rope: RopeConfig, dim: int) -> np.ndarray:
    """Returns the `dim / 2` angular frequencies in radians a token, float64."""
    plain = rope.theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if isinstance(rope.scaling, Yarn):
        return _yarn(plain, rope.scaling, rope.theta, dim)
    if isinstance(rope.scaling, Llama3Scaling):
        return _llama3(plain, rope.scaling)
    return plain


def yarn_bounds(scaling: Yarn, theta: float, dim: int) -> tuple[int, int]:
    """Returns the first changed and the first fully divided frequency's index."""

    def index(rotations: float) -> float:
        turns = scaling.original_positions / (2 * math.pi * rotations)
        return dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(index(scaling.beta_fast)), 0)
    high = min(math.ceil(index(scaling.beta_slow)), dim - 1)
    return low, high


def _yarn(plain: np.ndarray, scaling: Yarn, theta: float, dim: int) -> np.ndarray:
    """Interpolates low frequencies, keeps high ones (arXiv 2309.00071, eq. 22-23)."""
    low, high = yarn_bounds(scaling, theta, dim)
    width = max(high - low, 0.001)
    ramp = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _llama3(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Divides long wavelengths by the factor, with a smooth band between."""
    turns = scaling.original_positions * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return plain * (keep + (1 - keep) / scaling.factor)


def softmax_scale(rope: RopeConfig, head_dim: int) -> float:
    """Returns what multiplies q k: head_dim^-1/2, times DeepSeek's mscale squared."""
    scale = head_dim**-0.5
    if isinstance(rope.scaling, Yarn) and rope.scaling.softmax_mscale:
        yarn = rope.scaling
        scale *= (0.1 * yarn.softmax_mscale * math.log(yarn.factor) + 1.0) ** 2
    return scale


@typechecked
def rotation(rope: RopeConfig, dim: int, positions: Int[Array, " T"]) -> Rotation:
    """Returns cos and sin of each token's angles, float32 [T, dim / 2]."""
    table = jnp.asarray(frequencies(rope, dim), jnp.float32)
    angles = positions[:, None].astype(jnp.float32) * table[None, :]
    amplitude = rope.scaling.amplitude if isinstance(rope.scaling, Yarn) else 1.0
    return jnp.cos(angles) * amplitude, jnp.sin(angles) * amplitude


def at(turn: Rotation, tokens: Array | None) -> Rotation:
    """Returns the angles of some tokens; of all of them for None."""
    return turn if tokens is None else (turn[0][tokens], turn[1][tokens])


@typechecked
def rotate(
    x: Float[Array, "T N R"], turn: Rotation, *, interleaved: bool
) -> Float[Array, "T N R"]:
    """Rotates each pair of the last axis by its token's angle, in float32.

    Interleaved pairs (2i, 2i+1) come out half-split, (i, i + R/2): queries and keys
    are permuted alike, so their products do not change (and this is the order in
    which keys are cached).
    """
    tokens, heads, width = x.shape
    wide = x.astype(jnp.float32)
    if interleaved:
        pairs = jnp.swapaxes(wide.reshape(tokens, heads, width // 2, 2), 2, 3)
    else:
        pairs = wide.reshape(tokens, heads, 2, width // 2)
    cos, sin = (jnp.expand_dims(part, (1, 2)) for part in turn)
    sign = jnp.array([-1.0, 1.0]).reshape(1, 1, 2, 1)
    # (first cos - second sin, second cos + first sin), without a concatenation, which
    # XLA's CPU backend computes one value at a time.
    turned = pairs * cos + jnp.flip(pairs, 2) * (sin * sign)
    return turned.reshape(x.shape).astype(x.dtype)
