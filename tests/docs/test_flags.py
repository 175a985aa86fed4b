"""The page of flags is what the parsers say."""

import make_flags


def test_the_page_of_flags_is_what_the_parsers_say():
    kept = make_flags.PAGE.read_text(encoding="utf-8")
    assert kept == make_flags.text(), "run python tools/make_flags.py"


def test_choices_defaults_and_needs_are_told():
    page = make_flags.text()
    assert "| `--port` | `N` | 0 takes a free one (8000) |" in page
    assert "one of `latency`, `throughput`" in page
    assert "| `--output` | `PATH` | a directory; required |" in page
    assert "**`add`**" in page
