import jax
import pytest

from r1jax.errors import ConfigError
from r1jax.pallas import backend
from r1jax.pallas.chips import CHIPS, fit
from tests.pallas import tpu


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_known_tpu_runs_its_kernels(chip):
    assert backend.for_device(chip.device_kind) == ("tpu", chip, False)


def test_a_cpu_runs_the_references_and_a_gpu_its_own_kernels():
    assert backend.for_device(jax.devices("cpu")[0].device_kind) == backend.REFERENCE
    assert backend.for_device("NVIDIA H200").kind == "gpu"


def test_a_backend_may_be_a_static_argument():
    double = jax.jit(lambda x, way: x * (2 if way.chip else 1), static_argnums=1)
    assert double(1, backend.interpreted("v5e")) == 2
    assert double(1, backend.REFERENCE) == 1


def test_an_unknown_tpu_is_refused_by_name():
    with pytest.raises(ConfigError, match="'TPU v2'") as caught:
        backend.for_device("TPU v2")
    assert "TPU v6 lite" in caught.value.why


def test_buffers_that_do_not_fit_are_refused_with_their_sizes():
    chip = CHIPS["v7x"]
    limit = fit("toy", {"weights": 2**20}, chip)
    assert 2**20 < limit < chip.vmem_bytes
    with pytest.raises(
        ConfigError, match=r"67,108,865 bytes in VMEM: weights 67,"
    ) as e:
        fit("toy", {"weights": chip.vmem_bytes, "rows": 1}, chip)
    assert "v7x" in e.value.why


@pytest.mark.tpu_compile
@tpu.needs_compiler
@pytest.mark.parametrize("name", CHIPS)
def test_the_compiler_s_devices_are_the_table_s(name):
    kinds = {device.device_kind for device in tpu.devices(tpu.TOPOLOGIES[name])}
    assert kinds == {CHIPS[name].device_kind}
