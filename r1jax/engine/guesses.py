"""What the prediction layer guesses, inside the compiled step.

The layer runs over every token that a step feeds, so that its cache has no holes: at
position i it reads the main model's state there and the token at i + 1, which is the
next of a prompt, or the one just sampled. What it says behind a row's last accepted
token is the first guess; each further one comes of running it again, on itself.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from r1jax import model
from r1jax.cache import Batch, Geometry, Pools
from r1jax.config import ModelConfig
from r1jax.engine.packing import Form, StepInput, asked
from r1jax.engine.sampling import likeliest
from r1jax.typing import Array, PyTree


def guess(
    config: ModelConfig,
    form: Form,
    params: PyTree,
    pools: Pools,
    batch: Batch,
    hidden: Array,
    token: Array,
    step: StepInput,
) -> tuple[Array, Pools]:
    """Runs the prediction layer over a step's tokens.

    Args:
      config: The model.
      form: The sizes of the step.
      params: Parameters.
      pools: The cache, whose last layer is the prediction layer's.
      batch: The step's tokens.
      hidden: What `model.step` has returned for all of them.
      token: What was sampled after each token asked.
      step: The plan, by row.

    Returns:
      Each row's guesses of what follows its newest token, int32 [B, form.guesses], and
      the pools. Those of a row that samples nothing mean nothing.
    """
    each = asked(step, form)
    real = jnp.take(batch.lengths, batch.token_rows()[each.last]) > 0
    places = jnp.where(real, each.last, len(batch.tokens))
    assert each.following is not None
    known = jnp.where(each.samples != 0, token, each.following)
    following = jnp.roll(batch.tokens, -1).at[places].set(known, mode="drop")
    ahead, pools = model.mtp_step(
        config, params, pools, batch, hidden, following, each.last
    )
    end = _last_accepted(form, batch, token)
    ahead, position = ahead[end], batch.positions[each.last[end]]
    guesses = [_likeliest(config, params, ahead)]
    for n in range(1, form.guesses):
        # One token a row: the guess before, of which there is no state but the layer's.
        there = jnp.where(batch.lengths > 0, position + n, -1)
        there = jnp.where(there < form.columns * _page_size(pools), there, -1)
        one = dataclasses.replace(
            batch,
            tokens=guesses[-1],
            positions=there,
            lengths=there + 1,
            geometry=Geometry(form.geometry.rows, 0, 0),
        )
        ahead, pools = model.mtp_step(config, params, pools, one, ahead, guesses[-1])
        guesses.append(_likeliest(config, params, ahead))
    return jnp.stack(guesses, axis=1), pools


def _last_accepted(form: Form, batch: Batch, token: Array) -> Array:
    """Returns for each row the place, among the tokens asked, of its last right one."""
    g, shards = form.geometry, form.shards
    first = np.array(
        [[s * g.asked + g.first_asked(r) for r in range(g.rows)] for s in range(shards)]
    )
    if g.decode_tokens == 1:
        return jnp.asarray(first.reshape(-1))
    shape = (shards, g.decodes, g.decode_tokens)

    def decodes(flat: Array, of: int) -> Array:
        return flat.reshape(shards, of)[:, : g.first_chunk].reshape(shape)

    fed, at = decodes(batch.tokens, g.tokens), decodes(batch.positions, g.tokens)
    right = (fed[..., 1:] == decodes(token, g.asked)[..., :-1]) & (at[..., 1:] >= 0)
    count = jnp.cumprod(right, axis=-1).sum(axis=-1)
    none = jnp.zeros((shards, g.chunks), count.dtype)
    more = jnp.concatenate([count, none], axis=1)
    return (jnp.asarray(first) + more).reshape(-1)


def _likeliest(config: ModelConfig, params: PyTree, ahead: Array) -> Array:
    return likeliest(model.mtp_logits(config, params, ahead))


def _page_size(pools: Pools) -> int:
    (pool,) = pools.values()
    return pool.shape[-2]
