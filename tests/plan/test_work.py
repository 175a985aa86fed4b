"""What a step must read and multiply, against sums done by hand."""

import jax
import pytest

from r1jax.cache import Geometry
from r1jax.plan import floors, program, slices, work
from r1jax.plan.calibration import Calibration
from r1jax.presets import preset
from r1jax.quant import scheme


def setup(name, data, tensor, **more):
    on = slices.Slice("cpu", tuple(jax.devices()[: data * tensor]))
    return program.make_setup(
        preset(name), on, data=data, tensor=tensor, context=64, page_size=16, **more
    )


def test_a_dense_model_s_decode_by_hand():
    found = work.work_of(setup("tiny-qwen2", 1, 2), Geometry(4, 0, 0), 64)
    # On each of two devices, two layers: q 64 x 32, k and v 64 x 16, o 32 x 64,
    # gate, up and down 64 x 64 each; the head 64 x 256.
    matrices = 2 * (64 * 32 * 2 + 64 * 16 * 2 + 3 * 64 * 64)
    others = 2 * (2 * 64 + 32 + 16 + 16) + 64  # norms and biases, the final norm
    embedded = 4 * 64  # rows of 4 tokens
    assert found.weight_bytes == 4 * (matrices + 64 * 256 + others + embedded)
    # Keys and values: a head 16 wide, 4 sequences, 2 layers.
    assert found.cache_bytes == 4 * 4 * 64 * 2 * 2 * 16
    scores = 4 * 64 * 2 * 2 * (16 + 16) * 2  # 2 heads, 2 layers
    assert found.flops == 2 * 4 * (matrices + 64 * 256) + scores


def test_experts_are_read_as_far_as_tokens_choose_them():
    few, many = (
        work.work_of(setup("tiny-r1", 2, 2), Geometry(n, 0, 0), 64) for n in (1, 64)
    )
    # Two layers of 4 experts a device: gate, up and down 64 x 32.
    experts = 4 * 2 * 4 * 3 * 64 * 32
    embedded = 4 * 64
    kept = few.weight_bytes - (1 - 0.75**2) * experts - embedded
    assert many.weight_bytes == pytest.approx(kept + experts + 64 * embedded)


@pytest.mark.parametrize(("tokens", "share"), [(1, 8), (8, 57), (32, 163), (128, 252)])
def test_the_share_of_r1_s_experts_that_some_tokens_choose(tokens, share):
    assert round(256 * work.used_share(256, 8, tokens)) == share


def test_few_bits_are_read_as_few_bits():
    plain, eight = (
        sum(leaf.bytes for leaf in work.leaves(setup("tiny-r1", 1, 2, scheme=s)))
        for s in (None, scheme("int8"))
    )
    assert eight < 0.45 * plain  # float32 to int8, but for embedding and head


def test_a_floor_is_its_longest_limit_and_the_exchanges():
    floor = floors.Floor(memory=3.0, compute=1.0, exchange=0.5, exchanges=10)
    assert (floor.seconds, floor.binds) == (3.5, "memory")
    seen = Calibration(share=0.5, overhead=0.1, source="", error=0.0)
    assert seen.seconds(floor) == pytest.approx(3 / 0.5 + 0.5 + 10 * 0.1)


def test_a_latent_s_cache_is_cut_over_all_devices():
    cut = setup("tiny-r1", 2, 4)
    assert cut.token_bytes() == 3 * 128 * 4 / 8  # layers, padded latents, float32
    assert (cut.segments, cut.shards, cut.columns) == (4, 2, 4)
