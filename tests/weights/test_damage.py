"""What is broken, half-made or cannot be written is one error, and never loaded."""

import subprocess
import types

import numpy as np
import pytest

import r1jax
from damages import IN_LEAVES, IN_MANIFEST
from r1jax.errors import CheckpointError
from r1jax.serve import __main__ as serve
from r1jax.weights import arrays, convert, open_source, restore

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


FAST = dict(max_model_len=64, num_pages=4, page_size=64)


@pytest.mark.parametrize("damage", ["no manifest", "a chunk with a flipped bit"])
def test_what_is_damaged_is_neither_loaded_nor_served(damage, converted, capsys):
    _, output = converted("qwen2")
    DAMAGES[damage](output)
    with pytest.raises(CheckpointError):
        r1jax.load(output, **FAST)
    assert serve.main([str(output), "--port", "0"]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert str(output) in what
    assert (why[:7], fix[:7]) == ("  why: ", "  fix: ")


def test_what_is_not_finished_is_neither_loaded_nor_served(
    hf_copy, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr("r1jax.weights.manifest.write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(hf_copy("qwen2"), tmp_path / "output")
    for half in ("output.partial", "output.partial/checkpoint"):
        with pytest.raises(CheckpointError, match="not finished"):
            r1jax.load(tmp_path / half, **FAST)
        assert serve.main([str(tmp_path / half), "--port", "0"]) == 2
        assert "not finished" in capsys.readouterr().err


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; needs the right to mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_is_one_error_and_loses_nothing(
    hf_copy, small_disk, monkeypatch, same
):
    source, output = hf_copy("deepseek_fp8_mtp"), small_disk / "output"
    with pytest.raises(CheckpointError, match=r"0\.0 GB free"):
        convert(source, output)
    assert not list(small_disk.iterdir())
    # Others may fill the disk while it runs.
    usage = types.SimpleNamespace(free=10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError) as error:
        convert(source, output)
    assert "o space left" in str(error.value)
    assert "start again" in error.value.fix
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(CheckpointError):
        open_source(output)
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert convert(source, output).resumed_units > 0
    same(restore(output)[1], open_source(source).params("bfloat16"))
