"""The pages make a site, without a warning and without anything from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="it comes with the test extra")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"]
    done = subprocess.run(
        [*command, "-f", ROOT / "mkdocs.yml", "-d", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= {page.parent.name for page in tmp_path.rglob("index.html")}
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'(?:src|stylesheet"[^>]* href)="(https?:[^"]*)', page.read_text()
        )
        assert not fetched, page
