"""Counted routing comes back as it was saved, and for its own model only."""

import json

import numpy as np
import pytest

from r1jax.errors import CheckpointError, ConfigError
from r1jax.presets import preset
from r1jax.weights import read_expert_loads, save_expert_loads

TOY = preset("tiny-r1")
LOADS = np.arange(32).reshape(2, 16)


@pytest.fixture
def saved(tmp_path):
    save_expert_loads(tmp_path / "loads.json", TOY, LOADS)
    return tmp_path / "loads.json"


def test_loads_come_back(saved):
    np.testing.assert_array_equal(read_expert_loads(saved, TOY), LOADS)
    assert [path.name for path in saved.parent.iterdir()] == ["loads.json"]


def test_another_model_s_are_refused(saved):
    with pytest.raises(CheckpointError, match="16 experts in 2 layers") as caught:
        read_expert_loads(saved, preset("r1"))
    assert "256 experts in 58 layers" in caught.value.why


@pytest.mark.parametrize(
    ("loads", "why"),
    [
        ([[1.0] * 16], r"\[1, 16\] and should be \[2, 16\]"),
        ([[1.0] * 16, [-1.0] * 16], "negative"),
        ([[1.0] * 16, ["many"] * 16], "should be"),
        (None, "should be"),
    ],
)
def test_a_damaged_file_is_refused(saved, loads, why):
    body = json.loads(saved.read_text())
    saved.write_text(json.dumps(body | {"loads": loads}))
    with pytest.raises(CheckpointError, match="is damaged\n.*" + why):
        read_expert_loads(saved, TOY)


def test_what_is_no_file_or_no_json_is_refused(tmp_path, saved):
    with pytest.raises(CheckpointError, match="is no file"):
        read_expert_loads(tmp_path / "other", TOY)
    saved.write_text("loads")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_expert_loads(saved, TOY)


def test_loads_of_no_such_model_are_not_saved(tmp_path, saved):
    with pytest.raises(ConfigError, match="cannot be saved"):
        save_expert_loads(saved, TOY, LOADS[:1])
    assert read_expert_loads(saved, TOY).shape == (2, 16)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_expert_loads(tmp_path / "nowhere" / "loads", TOY, LOADS)
