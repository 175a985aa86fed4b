"""Operations whose gradients are written out: those that JAX derives take detours.

XLA's CPU backend multiplies two matrices as they lie, transposed or not. Derived
gradients give it arrays of more axes, which it transposes first, and pads and sums that
it does one after the other. Each operation here equals a plain expression, which its
docstring names, and so do its gradients.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.typing import Array, Float, typechecked


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
    x: Float[Array, "T ..."], kernel: Float[Array, "..."], inputs: int
) -> Float[Array, "T ..."]:
    """Sums the last axes of `x` against the first of a kernel: `jnp.tensordot`.

    Its gradients are products of matrices on a CPU, where there is no harm in joining
    axes; elsewhere they are those of `jnp.tensordot`.
    """
    return jnp.tensordot(x, kernel, inputs)


def _product(x: Array, kernel: Array, inputs: int) -> tuple[Array, Any]:
    return product(x, kernel, inputs), (x, kernel)


def _product_slopes(inputs: int, kept: Any, slope: Array) -> tuple[Array, Array]:
    def derived(x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
        back = jax.vjp(lambda x, k: jnp.tensordot(x, k, inputs), x, kernel)[1]
        slopes: tuple[Array, Array] = back(slope)
        return slopes

    def by_matrices(x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
        rows, ours = (a.reshape(len(x), -1) for a in (x, slope))
        matrix = kernel.reshape(math.prod(kernel.shape[:inputs]), -1)
        towards_x, towards_kernel = ours @ matrix.T, rows.T @ ours
        return towards_x.reshape(x.shape), towards_kernel.reshape(kernel.shape)

    return jax.lax.platform_dependent(*kept, slope, cpu=by_matrices, default=derived)


product.defvjp(_product, _product_slopes)


@jax.custom_vjp
def add_bias(y: Float[Array, "T ..."], bias: Float[Array, "..."]) -> Array:
    """Adds a bias to every row: `y + bias[None]`."""
    return y + bias[None]


def _add_bias_slopes(kept: None, slope: Array) -> tuple[Array, Array]:
    flat = slope.reshape(len(slope), -1)
    return slope, _sum_rows(flat).reshape(slope.shape[1:])


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), None), _add_bias_slopes)


@jax.custom_vjp
def gated(hidden: Float[Array, "... 2 F"]) -> Float[Array, "... F"]:
    """What stands between a feed-forward's products: silu(gate) * up."""
    return jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]


def _gated_slopes(hidden: Array, slope: Array) -> tuple[Array]:
    gate, up = hidden[..., 0, :], hidden[..., 1, :]
    share = jax.nn.sigmoid(gate)
    of_gate = slope * up * share * (1 + gate * (1 - share))
    return (jnp.stack([of_gate, slope * gate * share], axis=-2),)


gated.defvjp(lambda hidden: (gated(hidden), hidden), _gated_slopes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
@typechecked
def rms_norm(
    x: Float[Array, "*rows D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*rows D"]:
    """Root-mean-square normalisation (arXiv 1910.07467): x / sqrt(mean(x²) + eps).

    Normalises in float32, rounds to the input's dtype, then scales.
    """
    return _normed(x, eps)[0].astype(x.dtype) * _for_rows(scale, x)


def _for_rows(scale: Array, x: Array) -> Array:
    return jnp.expand_dims(scale, tuple(range(x.ndim - 1)))


def _normed(x: Array, eps: float) -> tuple[Array, Array]:
    """Returns what is normed, in float32, and by how much it was multiplied."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(mean_square + eps)
    return wide * factor, factor


def _rms_norm(x: Array, scale: Array, eps: float) -> tuple[Array, Any]:
    return rms_norm(x, scale, eps), (x, scale)


def _rms_norm_slopes(eps: float, kept: Any, slope: Array) -> tuple[Array, Array]:
    x, scale = kept
    normed, factor = _normed(x, eps)
    inner = (slope * _for_rows(scale, x)).astype(jnp.float32)
    shared = jnp.mean(inner * normed, axis=-1, keepdims=True)
    of_scale = _sum_rows((slope * normed.astype(x.dtype)).reshape(-1, x.shape[-1]))
    return (factor * (inner - normed * shared)).astype(x.dtype), of_scale


rms_norm.defvjp(_rms_norm, _rms_norm_slopes)


def _sum_rows(rows: Float[Array, "T O"]) -> Float[Array, " O"]:
    """Sums over rows as a product, which a CPU does several times faster."""
    return (jnp.ones((1, len(rows)), rows.dtype) @ rows)[0]
