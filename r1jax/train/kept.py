"""Kept answers on disk: a line for each question as it is done, at once.

`kept.partial.jsonl` holds them while questions are missing: the run's settings, then
for each question its number and the conversations kept of it, perhaps none. When all
are there they are written in order to `kept.jsonl`, which is what fine-tuning reads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from r1jax.errors import ConfigError
from r1jax.train.checkpoints import check_same

Conversation = Sequence[Mapping[str, Any]]


class Kept:
    """The answers of one run; what is asked goes into a `with`.

    Attributes:
      done: Conversations kept of each question that was asked, by its number.
    """

    def __init__(self, output: Path, run: Mapping[str, Any], resume: bool) -> None:
        """Reads what is there, and changes nothing.

        A last line that was cut off by a kill is left out.

        Args:
          output: The directory.
          run: What a resumed run must have in common with this one, as JSON.
          resume: Whether to go on with what is there.

        Raises:
          ConfigError: There is nothing to go on with, or something that would be
            overwritten, or it is broken.
          CheckpointError: It is of another run.
        """
        self.path = output / "kept.jsonl"
        self.done: dict[int, Sequence[Conversation]] = {}
        self._partial, self._run = output / "kept.partial.jsonl", run
        if self.path.exists():
            raise ConfigError(
                f"{self.path} exists",
                "it is whole, and may hold answers that took long to sample",
                "name another --output, or move it away",
            )
        lines = self._lines()
        if resume and not lines:
            raise ConfigError(
                f"{output} holds no answers",
                "there is nothing to go on with",
                "leave out --resume",
            )
        if len(lines) > 1 and not resume:
            raise ConfigError(
                f"{self._partial} holds the answers to {len(lines) - 1} questions",
                "nothing that exists is overwritten",
                "give --resume to go on with them, or another --output",
            )
        self._whole = 0  # bytes to go on behind
        if resume:
            self._read(lines)
            self._whole = sum(len(line) + 1 for line in lines)

    def __enter__(self) -> Self:
        """Opens the file, or makes it."""
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("r+b" if self._whole else "wb")
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
        except OSError as error:
            raise self._unwritable(error) from None
        if not self._whole:
            self._write({"run": dict(self._run)})
        return self

    def __exit__(self, *failure: object) -> None:
        """Closes the file."""
        self._file.close()

    def add(self, number: int, several: Sequence[Conversation]) -> None:
        """Writes what is kept of a question; it is with the system on return."""
        self._write({"number": number, "kept": several})
        self.done[number] = several

    def finish(self) -> int:
        """Writes the whole file, questions in order; returns how many lines it has."""
        lines = [
            json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
            for _, several in sorted(self.done.items())
            for messages in several
        ]
        new = self.path.with_suffix(".new")
        try:
            self._file.close()
            new.write_text("".join(lines), encoding="utf-8")
            new.replace(self.path)
            self._partial.unlink()
        except OSError as error:
            raise self._unwritable(error) from None
        return len(lines)

    def _write(self, fields: Mapping[str, Any]) -> None:
        try:
            line = json.dumps(fields, ensure_ascii=False) + "\n"
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    def _lines(self) -> list[bytes]:
        """Returns whole lines; none where there is no file."""
        try:
            text = self._partial.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"{self._partial} cannot be read", str(error), "name another --output"
            ) from None
        return text.split(b"\n")[:-1]

    def _read(self, lines: Sequence[bytes]) -> None:
        for at, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                if at == 1:
                    before = dict(fields["run"])
                else:
                    self.done[int(fields["number"])] = list(fields["kept"])
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(
                    f"{self._partial}: line {at} holds no answers",
                    f"{type(error).__name__}: {error}",
                    "mend or remove it",
                ) from None
            if at == 1:
                check_same(before, self._run, self._partial)

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self._partial.parent} cannot hold answers",
            str(error),
            "make room, or name another --output",
        )
