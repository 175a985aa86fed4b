"""A checkpoint is read again, and all that is wrong with it is told."""

import json

import pytest

from damages import BESIDE, IN_LEAVES, IN_MANIFEST
from r1jax.errors import CheckpointError
from r1jax.weights import verify


@pytest.mark.parametrize("damage", [None, *IN_LEAVES, *BESIDE])
def test_each_damage_is_one_line_that_names_it(damage, converted):
    _, output = converted("qwen2")
    if damage:
        (IN_LEAVES | BESIDE)[damage](output)
    leaves, wrong = verify(output)
    assert leaves == 14
    assert len(wrong) == (damage is not None)
    names = ("leaf dense_layers/mlp/down/kernel: ", "leaf embed/embedding: ")
    beside = ("tokenizer.json: ", "thesis.tex: ", "_METADATA: ")
    for line in wrong:
        assert line.startswith(names if damage in IN_LEAVES else beside)
        assert "\n" not in line


@pytest.mark.usefixtures("small_units")
def test_all_damages_are_told_at_once(converted):
    _, output = converted("deepseek_fp8_mtp", "fp8_blocks")
    chunk = "mtp.block.moe.experts.gate_up.values/c/0/3/0/0/0"
    # A chunk in the place of another has a sound checksum.
    swapped = output / "moe_layers.moe.experts.down.values/c/0"
    first, second = (swapped / f"{expert}/0/0" for expert in (0, 1))
    first.write_bytes(second.read_bytes())
    (output / chunk).unlink()
    _, wrong = verify(output)
    assert [line.split(":")[0] for line in wrong] == [
        "leaf moe_layers/moe/experts/down/values",
        "leaf mtp/block/moe/experts/gate_up/values",
    ]
    assert "digest" in wrong[0]
    assert chunk in wrong[1]


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest"])
def test_without_a_manifest_nothing_can_be_compared(damage, converted):
    _, output = converted("qwen2")
    IN_MANIFEST[damage](output)
    with pytest.raises(CheckpointError, match=r"r1jax\.json"):
        verify(output)


def test_a_changed_digest_is_told(converted):
    _, output = converted("qwen2")
    manifest = json.loads((output / "r1jax.json").read_text())
    manifest["leaves"]["final_norm/scale"]["sha256"] = "0" * 64
    (output / "r1jax.json").write_text(json.dumps(manifest))
    assert verify(output)[1] == [
        "leaf final_norm/scale: its digest is not the one in the manifest"
    ]
