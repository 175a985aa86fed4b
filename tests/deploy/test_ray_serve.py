"""Ray Serve, where it is installed: what a replica takes with it when it dies."""

import importlib.util
import json

import pytest

from hosts.processes import ROOT, Process, make_checkpoint

pytestmark = [
    pytest.mark.slow(minutes=True),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray[serve] is not installed"
    ),
]


def test_a_replica_that_dies_takes_its_own_requests_alone(tmp_path):
    folders = (ROOT, ROOT / "deploy", ROOT / "tests")
    checkpoint = make_checkpoint(tmp_path / "llama")
    drill = ROOT / "tests" / "deploy" / "ray_drill.py"
    process = Process([drill, checkpoint, 10], folders)
    assert process.wait(900) == 0, "\n".join(process.lines)
    seen = json.loads(process.lines[-1])
    assert seen["answered"] > seen["answered_before"] > 0
    assert seen["wrong"] == 0
    # What the dead replica had, and nothing that began later.
    assert len(seen["lost"]) <= seen["in_flight"]
    assert [since for since, _ in seen["lost"] if since > 0] == []
    assert seen["left"] == 0
