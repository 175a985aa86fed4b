"""Samples on disk: a JSON line each, at once, so that nothing asked is asked again."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from r1jax.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
      key: The problem's.
      number: Which of the problem's samples, from 0.
      seed: What it was drawn with.
      content: The answer, without the thoughts where the model's were told apart.
      reasoning: The thoughts.
      tokens: How many were generated, thoughts included.
      finish: "stop", or "length" where it was cut off.
    """

    key: str
    number: int
    seed: int
    content: str
    reasoning: str
    tokens: int
    finish: str


def seed_of(base: int, key: str, number: int) -> int:
    """Gives each sample a seed of its own, the same in every run, of 31 bits."""
    digest = hashlib.sha256(f"{base}/{key}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class Ledger:
    """The samples of one task, in a folder; use it in a `with`.

    Attributes:
      samples: What is there, by (key, number).
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Opens or makes a folder, and reads what it holds.

        Args:
          folder: Where `settings.json` and `samples.jsonl` lie.
          settings: What all samples have in common; must be as before.

        Raises:
          ConfigError: The folder holds samples of other settings, or something else.
        """
        self.samples: dict[tuple[str, int], Sample] = {}
        path = folder / "samples.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check(folder / "settings.json", settings, path)
            self._file = path.open("ab+")
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot hold samples", str(error), "name another --output"
            ) from None
        self._read(path)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._file.close()

    def add(self, sample: Sample) -> None:
        """Writes a sample; it is with the system when this returns."""
        line = json.dumps(dataclasses.asdict(sample), ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self.samples[sample.key, sample.number] = sample

    def _check(self, path: Path, settings: Mapping[str, Any], samples: Path) -> None:
        if not path.exists():
            if samples.exists():
                raise ConfigError(
                    f"{samples} has no {path.name} beside it",
                    "nobody knows what its samples were asked with",
                    "name another --output",
                )
            new = path.with_suffix(".new")
            new.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            new.replace(path)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            names = [*before, *(name for name in settings if name not in before)]
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path} is broken", str(error), "name another --output"
            ) from None
        for name in names:
            if before.get(name) != settings.get(name):
                raise ConfigError(
                    f"{name} is {settings.get(name)!r}, and was {before.get(name)!r} "
                    f"for the samples in {path.parent}",
                    "samples of different settings must not be mixed",
                    f"set {name} as before, or name another --output",
                )

    def _read(self, path: Path) -> None:
        """Reads all samples, and cuts off a last line that was never finished."""
        whole = 0
        self._file.seek(0)
        for at, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            try:
                sample = Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                self._file.close()
                raise ConfigError(
                    f"{path}: line {at} is no sample", str(error), "mend or remove it"
                ) from None
            self.samples[sample.key, sample.number] = sample
            whole += len(line)
