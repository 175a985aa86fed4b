"""The schedule of one call: which queries, which keys, which rows are written.

Everything here is small integer arithmetic that depends on lengths only, so that a
scan over layers can hoist it.
"""

from typing import NamedTuple

import jax.numpy as jnp

from r1jax.typing import Array


class Tiles(NamedTuple):
    """Queries cut into tiles, each of one sequence; int32 arrays of one entry a tile.

    Attributes:
      sequence: Whose queries.
      keys: How many of the sequence's keys here the tile needs; 0 is an empty tile.
      first: Where among the keys here the tile's first query stands; may lie outside.
      tokens: Query tokens in the tile.
      row: Its first flat token.
    """

    sequence: Array
    keys: Array
    first: Array
    tokens: Array
    row: Array


class Ragged(NamedTuple):
    """Where flat tokens lie in tiles.

    Attributes:
      token: The flat token of each place of each tile, [tiles, tokens].
      place: Each flat token's place, tiles laid end to end, [T].
      owned: Whether a sequence owns the token, [T].
    """

    token: Array
    place: Array
    owned: Array


class Chunks(NamedTuple):
    """Aligned runs of a page that new tokens fall into; int32, one entry a run.

    Attributes:
      page: Its page.
      at: Which run of the page.
      low: The first new row in the run.
      high: After the last new row; equal to `low` for nothing.
      token: The flat token for each row, [chunks, rows]; any number where not new.
    """

    page: Array
    at: Array
    low: Array
    high: Array
    token: Array


def decode_tiles(lengths: Array, offsets: Array, capacity: int, group: int) -> Tiles:
    """Returns one tile a sequence; their number is rounded up to whole groups."""
    here = jnp.where(lengths > 0, lengths - offsets, 0)
    spare = (0, -len(lengths) % group)
    keys = jnp.pad(jnp.clip(here, 0, capacity), spare)
    count = jnp.pad((lengths > 0).astype(jnp.int32), spare)
    sequence = jnp.minimum(jnp.arange(len(keys)), len(lengths) - 1)
    return Tiles(sequence, keys, jnp.pad(here - 1, spare), count, sequence)


def ragged_tiles(
    starts: Array,
    counts: Array,
    lengths: Array,
    offsets: Array,
    *,
    tokens: int,
    tile: int,
    capacity: int,
    group: int,
) -> tuple[Tiles, Ragged]:
    """Cuts each sequence's new tokens into tiles.

    Args:
      starts: The first flat token of each sequence, [B].
      counts: New tokens of each sequence, [B].
      lengths: Context with the new tokens, [B].
      offsets: Position of the first key here, [B].
      tokens: Flat tokens (T).
      tile: Tokens in a tile.
      capacity: Keys that can lie here for one sequence.
      group: The number of tiles is rounded up to a multiple of this.
    """
    needed = -(-counts // tile)
    ends = jnp.cumsum(needed)
    most = min(tokens, tokens // tile + len(starts))
    numbers = jnp.arange(-(-most // group) * group, dtype=jnp.int32)
    sequence = jnp.searchsorted(ends, numbers, side="right", method="compare_all")
    used = sequence < len(starts)
    sequence = jnp.minimum(sequence, len(starts) - 1).astype(jnp.int32)
    done = (numbers - (ends - needed)[sequence]) * tile
    count = jnp.where(used, jnp.clip(counts[sequence] - done, 0, tile), 0)
    first = (lengths - counts - offsets)[sequence] + done
    keys = jnp.where(count > 0, jnp.clip(first + count, 0, capacity), 0)
    row = jnp.clip(starts[sequence] + done, 0, tokens - 1)
    token = row[:, None] + jnp.arange(tile)[None]
    flat = jnp.arange(tokens)[:, None]
    inside = (flat >= starts[None]) & (flat < (starts + counts)[None])
    owner = jnp.argmax(inside, axis=1)
    within = jnp.arange(tokens) - starts[owner]
    place = (ends - needed)[owner] * tile + within
    ragged = Ragged(jnp.clip(token, 0, tokens - 1), place, inside.any(axis=1))
    return Tiles(sequence, keys, first, count, row), ragged


def chunks(
    starts: Array,
    counts: Array,
    lengths: Array,
    offsets: Array,
    page_table: Array,
    *,
    tokens: int,
    page: int,
    rows: int,
) -> Chunks:
    """Cuts each sequence's new tokens at aligned runs of `rows` of its pages."""
    capacity = page_table.shape[1] * page
    begin = jnp.clip(lengths - counts - offsets, 0, capacity)
    end = jnp.where(counts > 0, jnp.clip(lengths - offsets, 0, capacity), 0)
    begin = jnp.minimum(begin, end)
    needed = jnp.where(end > begin, -(-end // rows) - begin // rows, 0)
    ends = jnp.cumsum(needed)
    numbers = jnp.arange(min(tokens, tokens // rows + 2 * len(starts)))
    owner = jnp.searchsorted(ends, numbers, side="right", method="compare_all")
    used = owner < len(starts)
    owner = jnp.minimum(owner, len(starts) - 1)
    row = (begin[owner] // rows + numbers - (ends - needed)[owner]) * rows
    low = jnp.clip(begin[owner] - row, 0, rows)
    high = jnp.where(used, jnp.clip(end[owner] - row, 0, rows), low)
    slot = jnp.clip(row // page, 0, page_table.shape[1] - 1)
    origin = (starts + counts - lengths + offsets)[owner] + row
    token = jnp.clip(origin[:, None] + jnp.arange(rows)[None], 0, tokens - 1)
    at = row % page // rows
    return Chunks(page_table[owner, slot], at, low, high, token)
