"""A checkpoint in a bucket is read where it lies, and gives what it gives here."""

import gc

import pytest

import r1jax
from bucket_stand_in import BUCKET, Bucket, files_in
from hosts.processes import QUICK, Process, flags, make_checkpoint
from r1jax.engine.programs import keep_compiled
from r1jax.errors import CheckpointError, ConfigError
from r1jax.locate import locate
from r1jax.weights import bucket, convert, open_source, restore, to_hf, verify

ADDRESS = f"gs://{BUCKET}/some/model"
_TOKEN = "of-a-test"


@pytest.fixture
def there(converted, monkeypatch):
    """Gives a checkpoint here, and the same in a bucket."""
    _, output = converted("qwen2")
    with Bucket(files_in(output, "some/model")) as stand_in:
        for name, value in stand_in.environment.items():
            monkeypatch.setenv(name, value)
        yield output, stand_in


def test_weights_and_files_are_the_same_as_here(there, same, shardings_of):
    output, _ = there
    config, params, _ = restore(ADDRESS)
    same(params, restore(output)[1])
    same(restore(ADDRESS, shardings=shardings_of(config))[1], params)
    opened = open_source(locate(ADDRESS + "/"))
    tokenizer = opened.tokenizer_directory / "tokenizer.json"
    assert tokenizer.read_bytes() == (output / "tokenizer.json").read_bytes()
    del opened
    gc.collect()
    assert not tokenizer.parent.exists()


def test_what_is_wrong_in_a_bucket_is_told(there, tmp_path):
    _, stand_in = there
    assert verify(ADDRESS) == (14, [])
    to_hf(ADDRESS, tmp_path / "hf")
    del stand_in.files["some/model/final_norm.scale/c/0"]
    stand_in.files["some/model/thesis.tex"] = b""
    assert verify(ADDRESS)[1] == [
        "thesis.tex: is not part of the checkpoint",
        "leaf final_norm/scale: final_norm.scale/c/0 is missing",
    ]
    with pytest.raises(CheckpointError, match=f"{ADDRESS}: leaf final_norm/scale"):
        restore(ADDRESS)
    with pytest.raises(CheckpointError, match="already"):
        convert(ADDRESS, tmp_path / "again")


def _nobody(stand_in):
    stand_in.refuses = 403


def _busy(stand_in):
    stand_in.refuses = 503


def _elsewhere(stand_in):
    stand_in.files.clear()


def _changed(stand_in):
    stand_in.files["some/model/tokenizer.json"] = b"{}"


def _half(stand_in):
    stand_in.files["some/model/r1jax.json"] = b'{"format": '


def _outside(stand_in):
    name = "some/model/r1jax.json"
    stand_in.files[name] = stand_in.files[name].replace(
        b'"tokenizer.json"', b'"../tokenizer.json"'
    )


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (_nobody, "cannot be read"),
        (_busy, "cannot be read"),
        (_elsewhere, r"has no r1jax\.json"),
        (_changed, "differs from what was written"),
        (_half, "is no JSON object"),
        (_outside, "is named by the manifest"),
    ],
)
def test_what_cannot_be_read_is_one_error(act, what, there, monkeypatch):
    monkeypatch.setitem(bucket._RETRIES, "max_retries", 0)
    act(there[1])
    with pytest.raises(CheckpointError, match=what) as error:
        r1jax.load(ADDRESS)
    assert ADDRESS in error.value.what
    assert len(str(error.value).splitlines()) == 3


def test_addresses_of_others_are_refused():
    with pytest.raises(CheckpointError, match="s3://models/x cannot be read"):
        locate("s3://models/x")


@pytest.mark.slow
def test_a_server_reads_its_model_out_of_a_bucket(tmp_path, monkeypatch):
    output = tmp_path / "output"
    convert(make_checkpoint(tmp_path / QUICK), output, dtype="float32")
    files = files_in(output, "some/model")
    with Bucket(files, token=f"Bearer {_TOKEN}") as stand_in:
        for name, value in stand_in.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", _TOKEN)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        server = Process(flags(ADDRESS, tmp_path / "compiled"))
        try:
            server.wait_for("listening")
            assert server.wait_for("model") == ADDRESS
        finally:
            server.kill(15)
            assert server.wait(60) == 0
    assert {name for name, _ in stand_in.asked} == set(files)
    assert not list(tmp_path.glob("r1jax-*"))


_COMPILE = """
import jax
from r1jax.engine.programs import keep_compiled
keep_compiled("gs://{}/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_raise_persistent_cache_errors", True)
jax.jit(lambda x: x + 1)(1.0)
jax.clear_caches()
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.slow
def test_compiled_programs_are_kept_in_a_bucket_and_found_there(monkeypatch):
    pytest.importorskip("gcsfs", reason="it comes with the gcs extra")
    with Bucket({"some/file": b""}) as stand_in:
        for name, value in stand_in.environment.items():
            monkeypatch.setenv(name, value)
        program = Process(["-c", _COMPILE.format(BUCKET)])
        assert program.wait(300) == 0, "\n".join(program.lines)
        kept = {name for name in stand_in.files if name.startswith("compiled/")}
        assert kept
        assert kept & {name for name, _ in stand_in.asked}


def test_a_bucket_for_compiled_programs_needs_an_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gcsfs cannot be imported") as error:
        keep_compiled("gs://models/compiled")
    assert "r1jax[gcs]" in error.value.fix
