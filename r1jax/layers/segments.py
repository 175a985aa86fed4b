"""A latent cache cut along its sequences, over devices that share them.

Each device holds one segment of every sequence (the picture is in r1jax/cache.py). A
query visits them all: heads are gathered, each device gives its share of the softmax,
and the shares are merged by their peaks and sums (arXiv 2112.05682, section 2) while
they go back to the devices of their heads. Everything here runs on each device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.cache import Batch
from r1jax.pallas.paged import Partial
from r1jax.typing import Array, Bool, Float, Int

Axes = tuple[str, ...]


class Segment(NamedTuple):
    """What one device holds of each row.

    Attributes:
      table: Its pages, in order.
      offsets: The position of the first token that they cover.
    """

    table: Int[Array, "B J"]
    offsets: Int[Array, " B"]


def axes_of(batch: Batch) -> Axes:
    """Returns the mesh axes over which sequences are cut; none on one device."""
    placement = batch.target.placement
    return placement.segment_axes if placement else ()


def mesh_of(batch: Batch) -> Axes:
    """Returns all axes of the mesh."""
    placement = batch.target.placement
    return tuple(placement.mesh.axis_names) if placement else ()


def own_segment(batch: Batch, axes: Axes, page_size: int) -> Segment:
    """Returns this device's part of the page table."""
    rows, columns = batch.page_table.shape
    count = _count(axes)
    number = (jax.lax.axis_index(axes) - _homes(batch)) % count
    pages = columns // count
    parts = batch.page_table.reshape(rows, count, pages)
    return Segment(parts[jnp.arange(rows), number], number * pages * page_size)


def own_pages(batch: Batch, axes: Axes, row: int) -> Bool[Array, " J"]:
    """Tells for each page of a row whether this device holds it."""
    columns, count = batch.page_table.shape[1], _count(axes)
    number = jnp.arange(columns) // (columns // count)
    return (_homes(batch)[row] + number) % count == jax.lax.axis_index(axes)


def gather_heads(q: Float[Array, "T N E"], axes: Axes) -> Float[Array, "T NN E"]:
    """Returns the queries of all devices' heads."""
    return jax.lax.all_gather(q, axes, axis=1, tiled=True)


def merge(share: Partial, axes: Axes, dtype: jnp.dtype) -> Float[Array, "T N W"]:
    """Merges all devices' shares; each gets back its own heads.

    Peaks and sums, one of each a query, are known to all first, so that what is added
    up is weighed already and may be narrow.
    """
    known = jax.lax.all_gather(jnp.stack([share.peak, share.total]), axes)
    peaks, totals = known[:, 0], known[:, 1]
    peak = jnp.max(peaks, axis=0)
    total = jnp.sum(totals * jnp.exp(peaks - peak[None]), axis=0)
    weight = jnp.exp(share.peak - peak) / jnp.maximum(total, 1e-30)
    mixed = (share.mixed * weight[..., None]).astype(dtype)
    return jax.lax.psum_scatter(mixed, axes, scatter_dimension=1, tiled=True)


def _homes(batch: Batch) -> Array:
    rows = len(batch.page_table)
    return jnp.zeros(rows, jnp.int32) if batch.homes is None else batch.homes


def _count(axes: Axes) -> int:
    return jax.lax.axis_size(axes)
