"""Problems to evaluate on."""

import json

import pytest


@pytest.fixture
def problems(tmp_path):
    """A file of ten sums."""
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{n}+{n}?", "answer": str(2 * n)} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
