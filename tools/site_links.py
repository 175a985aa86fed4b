"""Leads links out of docs/ to the repository: a hook of mkdocs, see mkdocs.yml."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **rest: Any) -> str:
    """Rewrites `../PATH`, which is right in the repository and has no page here."""
    return _OUTSIDE.sub(rf"]({config['repo_url']}/blob/main/\1)", markdown)
