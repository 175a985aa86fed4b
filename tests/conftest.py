"""Strict JAX on eight CPU devices, toy models, and one source of random numbers."""

import functools
import os
import threading
from collections.abc import Iterator
from importlib import metadata

os.environ.setdefault("OMP_NUM_THREADS", "1")
# With the TPU compiler installed JAX would look for a TPU. Tests that need a GPU are
# run with JAX_PLATFORMS=cuda,cpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest

from r1jax import parameters
from r1jax.config import ModelConfig
from r1jax.presets import preset
from r1jax.typing import PyTree
from sum_server import SumServer

jax.config.update("jax_num_cpu_devices", 8)  # any test may use a mesh
jax.config.update("jax_numpy_rank_promotion", "raise")
# Toy models spend their time in the compiler, not in what it compiles.
jax.config.update("jax_disable_most_optimizations", True)
# What `main` of a command would keep for its user stays out of this process: the next
# run of the tests would read it, and JAX cannot read programs of described devices.
jax.config.update("jax_enable_compilation_cache", False)
# XLA's older way to write loops compiles twice as fast. Of later releases 0.12 lacks
# it, and an unknown flag ends the process. Processes that tests start run as users' do.
if metadata.version("jaxlib").startswith("0.10."):
    with pytest.MonkeyPatch.context() as patch:
        own = os.environ.get("XLA_FLAGS", "")
        patch.setenv("XLA_FLAGS", f"{own} --xla_cpu_use_fusion_emitters=false")
        jax.devices()  # reads the flags


_SAMPLE = 37  # (a prime) one of so many slow tests is run by --slow sample


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the choice of slow tests."""
    parser.addoption("--slow", choices=["none", "sample", "all"], default="none")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves out the slow tests that were not asked for."""
    chosen = config.getoption("--slow")
    slow = [item for item in items if item.get_closest_marker("slow")]
    brief = [i for i in slow if "minutes" not in i.get_closest_marker("slow").kwargs]
    kept = {"none": [], "sample": brief[::_SAMPLE], "all": slow}[chosen]
    left = set(slow) - set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


@functools.cache
def _config(family: str) -> ModelConfig:
    return preset(f"tiny-{family}")


@functools.cache
def _params(family: str) -> PyTree:
    config = _config(family)
    return jax.jit(lambda: parameters.init(config, jax.random.key(0)))()


@pytest.fixture(scope="session")
def tiny():
    """Gives the toy config of a family: r1, qwen2, llama or qwen3."""
    return _config


@pytest.fixture(scope="session")
def tiny_params():
    """Gives a family's toy parameters, float32; the same ones each time."""
    return _params


@pytest.fixture
def sums() -> Iterator[SumServer]:
    """Gives a running server of sums."""
    server = SumServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def rng() -> np.random.Generator:
    """Gives random numbers that are the same in every run."""
    return np.random.default_rng(0)
