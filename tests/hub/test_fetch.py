"""Models by their names on the hub: what is fetched, what goes on, what is said."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

import r1jax
from golden_files import golden
from hub_stand_in import MODEL, NAME, NEEDED
from r1jax.errors import CheckpointError, ConfigError
from r1jax.hub import parse
from r1jax.hub.names import PINNED
from r1jax.locate import locate
from r1jax.weights import open_source

FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
TOKEN = "hf_secret"


def said(error) -> str:
    """The three lines of an error."""
    text = str(error.value)
    assert [line[:7] for line in text.splitlines()[1:]] == ["  why: ", "  fix: "]
    return text


def test_only_what_a_model_needs_is_fetched_and_once(hub, capfd):
    path = locate(NAME)
    assert hub.fetched() == sorted(NEEDED)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == NEEDED
    assert "r1jax: fetching owner/tiny@" in capfd.readouterr().err
    assert locate(NAME) == path
    assert hub.fetched() == sorted(NEEDED)
    hub.asked.clear()
    assert locate(f"{NAME}@{path.name}") == path
    assert hub.asked == []
    assert open_source(path).config == open_source(golden(MODEL).directory).config


def test_a_file_goes_on_where_its_connection_broke(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.cuts[SECOND] = [1000, 700]
    path = locate(NAME)
    assert (path / SECOND).read_bytes() == NEEDED[SECOND]
    ranges = [asked for _, path, asked in hub.asked if path.endswith(SECOND)]
    assert [r for r in ranges if r] == ["bytes=1000-", "bytes=1500-"]


def test_what_has_come_stays_when_the_rest_fails(hub):
    hub.failing.add(SECOND)
    with pytest.raises(CheckpointError, match="cannot be fetched") as error:
        locate(NAME)
    assert "HTTP 503" in said(error)
    assert [pause for pause in hub.pauses if pause in (15, 60)] == [15, 60, 60]
    hub.failing.clear()
    hub.asked.clear()
    locate(NAME)
    assert hub.fetched() == [SECOND]


@pytest.mark.parametrize(
    ("refusal", "token", "what", "fix"),
    [
        ((401, "GatedRepo"), "", "gated, and no token was sent", "set HF_TOKEN"),
        ((403, "GatedRepo"), TOKEN, "the token in HF_TOKEN has no", "ask for access"),
        ((401, "RepoNotFound"), "", "neither a path here nor", "set HF_TOKEN"),
        ((404, "RepoNotFound"), TOKEN, "neither a path here nor", "check the name"),
        ((401, "invalid"), TOKEN, "the hub refuses the token in", "make a new one"),
        ((403, "forbidden"), TOKEN, "the hub forbids it", "fine-grained"),
        ((404, "RevisionNotFound"), "", "has no revision 'main'", "commits/main"),
    ],
)
def test_a_refusal_is_explained(hub, monkeypatch, refusal, token, what, fix):
    hub.repositories[NAME].refuses = refusal
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError) as error:
        locate(NAME)
    first, _, last = said(error).splitlines()
    assert what in first
    assert fix in last
    assert TOKEN not in said(error)


def test_a_token_opens_a_gated_repository(hub, monkeypatch):
    hub.repositories[NAME].refuses = (401, "GatedRepo")
    hub.repositories[NAME].token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (locate(NAME) / FIRST).exists()


def test_a_revision_is_a_branch_or_tag_or_commit(hub):
    old = locate(NAME).name
    changed = NEEDED | {"generation_config.json": b'{"temperature": 0.5}'}
    new = hub.put(NAME, changed, "v2")
    hub.put(NAME, changed, "refs/pr/3")
    for revision, commit in (("main", old), ("v2", new), (old, old), (new, new)):
        assert locate(f"{NAME}@{revision}").name == commit
    assert open_source(locate(f"{NAME}@refs/pr/3")).generation["temperature"] == 0.5
    with pytest.raises(CheckpointError, match="no revision 'v3'"):
        locate(f"{NAME}@v3")
    for wrong in ("", "../up"):
        with pytest.raises(ConfigError, match="is no revision"):
            locate(f"{NAME}@{wrong}")


def test_releases_of_presets_have_fixed_revisions():
    distill = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert parse(distill).revision == PINNED[distill]
    assert parse(distill).fixed
    assert parse(f"{distill}@main").revision == "main"
    assert parse(NAME).revision == "main"


@pytest.mark.parametrize("path", ["./a/b", "/a/b", "~/a", "a/b/c", "a/b.gguf", "r1"])
def test_a_path_is_no_name(path):
    assert parse(path) is None
    assert locate(path) == Path(path).expanduser()


def test_offline_the_cache_is_taken_and_nobody_asked(hub, offline):
    path = locate(NAME)
    offline()
    hub.asked.clear()
    assert locate(NAME) == locate(f"{NAME}@{path.name}") == path
    assert hub.asked == []
    with pytest.raises(CheckpointError, match="other/tiny@main is not in") as error:
        locate("other/tiny")
    assert "HF_HUB_OFFLINE" in said(error)
    assert NAME in said(error)
    with pytest.raises(CheckpointError) as error:
        locate(f"{NAME}@v2")
    assert path.name in said(error)
    (path / SECOND).unlink()
    with pytest.raises(CheckpointError, match="1 of 2 files with the weights"):
        locate(NAME)


def test_without_a_network_the_cache_is_taken_and_it_is_said(hub, capfd):
    path = locate(NAME)
    hub.close()
    huggingface_hub.close_session()  # its open connections are served still
    capfd.readouterr()
    assert locate(NAME) == locate(f"{NAME}@{path.name}") == path
    line = f"taking {NAME}@{path.name[:12]} from the cache\n"
    assert capfd.readouterr().err.endswith(line)
    with pytest.raises(CheckpointError, match="cannot be fetched") as error:
        locate("other/tiny")
    assert "the hub cannot be reached" in said(error)


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        ({"model_type": "gpt2"}, ConfigError, "gpt2"),
        ({"quantization_config": {"quant_method": "awq"}}, CheckpointError, "awq"),
    ],
)
def test_what_cannot_be_loaded_is_not_fetched(hub, change, kind, what):
    config = json.dumps(json.loads(NEEDED["config.json"]) | change).encode()
    hub.put(NAME, NEEDED | {"config.json": config})
    with pytest.raises(kind, match=what):
        locate(NAME)
    with pytest.raises(ConfigError, match="dtype is 'int9'"):
        r1jax.load(f"{NAME}@{next(iter(hub.repositories[NAME].commits))}", dtype="int9")
    assert not any(name.endswith("safetensors") for name in hub.fetched())


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"config.json": NEEDED["config.json"], "a.bin": b""}, "it has a.bin"),
        ({"tiny.gguf": b"", "README.md": b""}, "has no config.json"),
    ],
)
def test_a_repository_without_safetensors_is_explained(hub, files, what):
    hub.put(NAME, files)
    with pytest.raises(CheckpointError) as error:
        locate(NAME)
    assert what in said(error)


def test_a_full_disk_is_told_before_the_download(hub, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=150_000))
    with pytest.raises(CheckpointError, match="GB more on the disk"):
        locate(NAME)
    assert not any(name.endswith("safetensors") for name in hub.fetched())
