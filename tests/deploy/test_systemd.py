"""The systemd unit: it starts the server, and knows its exit codes and its pace."""

import configparser
import shlex

import pytest

from hosts.processes import ROOT
from r1jax.serve import __main__ as command
from r1jax.serve.flags import parser

FOLDER = ROOT / "deploy" / "systemd"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    """Gives the unit's section on the process."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(FOLDER / "r1jax.service", encoding="utf-8")
    return unit["Service"]


@pytest.fixture(scope="module")
def args(service):
    """Gives the flags that its command has with the settings beside it."""
    lines = (FOLDER / "r1jax.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    _, m, module, *words = shlex.split(service["ExecStart"])
    assert (m, module) == ("-m", "r1jax.serve")
    assert {word[1:] for word in words if word.startswith("$")} < settings.keys()
    expanded = [settings[w[1:]] if w.startswith("$") else w for w in words]
    return parser().parse_args(shlex.split(" ".join(expanded)))


def test_its_command_is_one_of_the_server(args, service):
    assert args.source == "/srv/models/DeepSeek-R1-Distill-Qwen-7B"
    assert args.compilation_cache == "/var/cache/r1jax/compiled"
    assert service["CacheDirectory"] == "r1jax"


def test_bad_input_is_not_tried_again_and_requests_may_finish(args, service):
    assert service["Restart"] == "on-failure"
    assert int(service["RestartPreventExitStatus"]) == command._BAD_INPUT
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > args.shutdown_timeout + 15
