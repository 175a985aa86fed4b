"""Logits over several processes equal those of one device."""

import numpy as np
import pytest

import r1jax
from hosts.logits import TOKENS
from hosts.processes import R1, ROOT, free_port


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_gives_the_one_device_logits(
    launch, checkpoint, tmp_path, count
):
    address = f"127.0.0.1:{free_port()}"
    program = ROOT / "tests" / "hosts" / "logits.py"
    processes = [
        launch(program, checkpoint(R1), tmp_path, address, count, index)
        for index in range(count)
    ]
    assert [process.wait(120) for process in processes] == [0] * count
    alone = r1jax.load(checkpoint(R1), max_model_len=64, page_size=16).logits(TOKENS)
    for index in range(count):
        together = np.load(tmp_path / f"{index}.npy")
        np.testing.assert_allclose(together, alone, atol=2e-5 * np.abs(alone).max())
