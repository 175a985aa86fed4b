"""The hub's library, turned to a stand-in and to a cache of the test's own."""

import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from hub_stand_in import NAME, NEEDED, OTHERS, StandIn


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one model; no test waits, or sees the user's own cache and token."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("R1JAX_CHECKPOINTS", str(tmp_path / "kept"))
    with StandIn() as stand_in:
        monkeypatch.setattr(time, "sleep", stand_in.pauses.append)
        template = stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": stand_in.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        stand_in.put(NAME, NEEDED | OTHERS)
        yield stand_in
    huggingface_hub.close_session()


@pytest.fixture
def offline(monkeypatch):
    """Does as HF_HUB_OFFLINE=1."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
