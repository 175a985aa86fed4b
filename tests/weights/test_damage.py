"""What is broken, half-made or cannot be written is one error, and never loaded."""

import numpy as np
import pytest

from damages import IN_LEAVES, IN_MANIFEST
from r1jax.errors import CheckpointError
from r1jax.weights import arrays, convert, restore

DAMAGES = IN_MANIFEST | IN_LEAVES


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_error(damage, converted):
    _, output = converted("qwen2")
    DAMAGES[damage](output)
    with pytest.raises(CheckpointError) as error:
        restore(output)
    text = str(error.value)
    assert len(text.splitlines()) == 3
    assert str(output) in text


def test_a_broken_weight_gives_no_checkpoint(hf_copy, tmp_path, edit):
    source = hf_copy("qwen2_tied")
    with edit(source / "model.safetensors") as raw:
        shape = raw.entries["model.norm.weight"]["shape"]
        nan = np.full(shape, np.nan, "<f4").tobytes()
        raw.put("model.norm.weight", "F32", shape, nan)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        convert(source, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_an_array_that_cannot_be_made_is_one_error(hf_copy, tmp_path, monkeypatch):
    make = arrays.ts.open

    def fail(spec, **more):
        if "final_norm" in spec["kvstore"]:
            raise ValueError("RESOURCE_EXHAUSTED: no space left on device")
        return make(spec, **more)

    monkeypatch.setattr(arrays.ts, "open", fail)
    with pytest.raises(CheckpointError, match="final_norm/scale") as error:
        convert(hf_copy("qwen2"), tmp_path / "output")
    assert "no space left" in str(error.value)
