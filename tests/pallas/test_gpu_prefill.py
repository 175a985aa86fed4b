import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.pallas.flash_prefill import gpu as prefill
from tests.pallas.gpu import BF16, F32, attend_rows, close, each_form, normal, softmaxed


def attend_chunk(q, k, v, prefix, length, scale):
    """Attends with [N, T, H] to keys [K, S, H] and values [K, W, S]."""
    out = np.zeros((*q.shape[:2], v.shape[1]), np.float32)
    for t in range(length):
        seen = slice(0, prefix + t + 1)
        keys, values = k[:, seen].swapaxes(0, 1), np.moveaxis(v[..., seen], 2, 0)
        out[:, t] = attend_rows(q[:, t], keys, values, scale)
    return out


def chunk(rng, heads, kv_heads, tokens, keys, width, value_width, prefix, length):
    q = rng.standard_normal((heads, tokens, width), np.float32)
    k = rng.standard_normal((kv_heads, keys, width), np.float32)
    v = rng.standard_normal((kv_heads, value_width, keys), np.float32)
    q[:, length:], k[:, prefix + length :], v[..., prefix + length :] = (np.nan,) * 3
    return q, k, v


CHUNK = prefill.Blocks(queries=16, keys=16, warps=4, stages=2)


@each_form
@pytest.mark.parametrize(
    ("tokens", "keys", "prefix", "length", "widths", "blocks"),
    [
        (40, 40, 0, 40, (16, 16), CHUNK),
        (40, 70, 30, 40, (24, 16), CHUNK),  # a prefix that ends inside a block
        (40, 70, 32, 17, (24, 16), CHUNK),  # half of the queries are padding
        (40, 70, 9, 0, (16, 24), CHUNK),  # an empty chunk
        (16, 33, 16, 16, (16, 16), CHUNK),
        (40, 70, 30, 40, (48, 32), None),
    ],
)
def test_flash_prefill_attends_causally(
    rng, interpret, tokens, keys, prefix, length, widths, blocks
):
    q, k, v = chunk(rng, 4, 2, tokens, keys, *widths, prefix, length)
    call = jax.jit(
        functools.partial(
            prefill.flash_prefill, scale=0.2, blocks=blocks, interpret=interpret
        )
    )
    got = call(q, k, v, jnp.int32(prefix), jnp.int32(length))
    close(got, attend_chunk(q, k, v, prefix, length, 0.2))


@each_form
def test_flash_prefill_hands_out_peak_and_total(rng, interpret):
    q, k, v = chunk(rng, 2, 2, 32, 32, 16, 16, 0, 20)
    mixed, peak, total = jax.jit(
        functools.partial(
            prefill.flash_prefill, scale=0.2, partial=True, interpret=interpret
        )
    )(q, k, v, None, jnp.int32(20))
    assert peak.shape == total.shape == (2, 32, 1)
    assert (peak[:, 20:] == -1e30).all()
    assert (total[:, 20:] == 0).all()
    got = mixed[:, :20] / total[:, :20]
    close(got, attend_chunk(q, k, v, 0, 20, 0.2)[:, :20])


@each_form
@pytest.mark.parametrize("held", [1, 16, 29, 64])
def test_fewer_keys_than_the_prefix_are_a_share_of_the_context(rng, interpret, held):
    q, k, v = chunk(rng, 2, 1, 32, 64, 16, 16, 64, 0)
    q = np.nan_to_num(q, nan=0.5)
    k[:, held:], v[..., held:] = np.nan, np.nan
    mixed, _, total = jax.jit(
        functools.partial(
            prefill.flash_prefill, scale=0.2, partial=True, interpret=interpret
        )
    )(q, k, v, jnp.int32(64), jnp.int32(20), key_count=jnp.int32(held))
    keys, values = k[:, :held].swapaxes(0, 1), np.moveaxis(v[..., :held], 2, 0)
    for t in range(20):
        wanted = attend_rows(q[:, t], keys, values, 0.2)
        close(mixed[:, t] / total[:, t], wanted)
    assert (total[:, 20:] == 0).all()


def test_cudnn_gets_what_it_needs(rng, monkeypatch):
    real = jax.nn.dot_product_attention
    asked = []

    def plain(*args, implementation, **kwargs):
        asked.append(implementation)
        return real(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    q, k, v = (x.astype(BF16) for x in chunk(rng, 4, 2, 24, 24, 16, 16, 0, 17))
    call = functools.partial(prefill.flash_prefill, scale=0.2, length=jnp.int32(17))
    got = jax.jit(call)(q, k, v, prefix=None)
    assert asked == ["cudnn"]
    want = attend_chunk(*(x.astype(np.float32) for x in (q, k, v)), 0, 17, 0.2)
    close(got, want, BF16)
    for kwargs in ({"prefix": jnp.int32(0)}, {"prefix": None, "partial": True}):
        jax.eval_shape(functools.partial(call, **kwargs), q, k, v)
    assert asked == ["cudnn"]
    assert prefill.suits_cudnn(128, 128, BF16)
    assert not prefill.suits_cudnn(192, 128, BF16)
    assert not prefill.suits_cudnn(128, 128, F32)
    assert not prefill.suits_cudnn(256, 256, BF16)


@each_form
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "prefix"),
    [(16, 16, 192, 700), (32, 8, 128, 1000), (32, 8, 128, None)],
)
def test_flash_prefill_in_bfloat16(interpret, heads, kv_heads, width, prefix):
    heads, kv_heads = (2, 1) if interpret else (heads, kv_heads)
    tokens, length = (48, 40) if interpret else (1024, 1000)
    before = None if prefix is None else prefix // (16 if interpret else 1)
    start = before or 0
    q, k = (
        normal(0, (heads, tokens, width)),
        normal(1, (kv_heads, start + tokens, width)),
    )
    v = normal(2, (kv_heads, 128, start + tokens))
    call = functools.partial(prefill.flash_prefill, scale=0.1, interpret=interpret)
    if before is None:
        got = jax.jit(lambda *args: call(*args, None, jnp.int32(length)))(q, k, v)
    else:
        got = jax.jit(call)(q, k, v, jnp.int32(before), jnp.int32(length))
    grouped_q = q.astype(F32).reshape(kv_heads, -1, tokens, width)
    scores = jnp.einsum("KGTH,KSH->KGTS", grouped_q, k.astype(F32)) * 0.1
    token, key = jnp.arange(tokens)[:, None], jnp.arange(start + tokens)[None]
    weights = softmaxed(scores, ((key <= start + token) & (token < length))[None, None])
    want = jnp.einsum("KGTS,KWS->KGTW", weights, v.astype(F32))
    close(got, want.reshape(heads, tokens, 128), BF16)
