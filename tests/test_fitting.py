"""The distill that a machine has room for."""

import pytest

from r1jax import fitting
from r1jax.config import GqaConfig
from r1jax.hub.names import RELEASES
from r1jax.presets import preset

GIB = 2**30


@pytest.mark.parametrize(
    ("devices", "memory", "disk", "name", "dtype", "cut"),
    [
        (1, 11, 200, "distill-llama-8b", "int8", (1, 1)),  # Colab's v5e-1
        (8, 11, 200, "distill-llama-70b", "int8", (1, 8)),  # Kaggle's v5e-8
        (8, 11, 20, "distill-llama-8b", "bfloat16", (1, 8)),  # and little disk
        (2, 4, 5, "distill-qwen-1.5b", "bfloat16", (1, 2)),
        (8, 4, 5, "distill-qwen-1.5b", "bfloat16", (4, 2)),  # two key heads
        (1, 1, 200, None, None, (1, 1)),
        (8, 11, 1, None, None, (1, 1)),
    ],
)
def test_the_largest_that_memory_and_disk_hold(devices, memory, disk, name, dtype, cut):
    found = fitting.choose(devices, memory * GIB, disk * GIB)
    assert found.source == RELEASES.get(name)
    assert (found.dtype, found.data, found.tensor) == (dtype, *cut)
    assert found.device_bytes <= memory * GIB


def test_every_distill_can_be_cut_by_its_key_heads():
    for name in fitting._DISTILLS:
        assert isinstance(preset(name).attention, GqaConfig)


def test_a_cpu_gets_the_model_in_the_package():
    assert fitting.distill_that_fits() == fitting.Fitting()
    assert fitting.Fitting().options == {}
