"""States on disk, by Orbax, with the place in the data: a run goes on where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from r1jax.errors import CheckpointError, ConfigError
from r1jax.train.state import State

DIRECTORY = "checkpoints"


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    """Checks that a run is the one that is to go on.

    Args:
      before: What was kept of it.
      now: The same of this one.
      place: Where the former was found.

    Raises:
      CheckpointError: They differ; names what does.
    """
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"{name} is {now.get(name)!r}, and was {before.get(name)!r} in {place}",
                "a resumed run must see the same data and settings to end as if it "
                "had not stopped",
                "give the settings that the run began with, or another --output",
            )


class Checkpoints:
    """The newest states of a run, in `OUTPUT/checkpoints`."""

    def __init__(self, output: str | Path, keep: int = 2) -> None:
        """Opens the directory, or makes it."""
        self.path = Path(output).absolute() / DIRECTORY
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(self.path, options=options)

    @property
    def newest(self) -> int | None:
        """The step of the newest whole checkpoint; None where there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def check_new(self) -> None:
        """Checks that a run that begins finds no other one's states.

        Raises:
          ConfigError: There are some.
        """
        if self.newest is not None:
            raise ConfigError(
                f"{self.path.parent} holds a run, saved after step {self.newest}",
                "nothing that exists is overwritten",
                "give --resume to go on with it, or another --output",
            )

    def save(self, state: State, run: Mapping[str, Any]) -> None:
        """Writes a state, whole or not at all.

        Args:
          state: What learns; its step names the checkpoint.
          run: What a resumed run must have in common with this one, as JSON.
        """
        step = int(state.step)
        if step == self.newest:
            return
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(dict(run))
        )
        self._manager.save(step, args=parts)
        self._manager.wait_until_finished()

    def restore(self, like: State, run: Mapping[str, Any]) -> State:
        """Reads the newest state into the places of another.

        Args:
          like: A state of the same shapes, or of `jax.ShapeDtypeStruct`s with
            shardings.
          run: As given to `save`.

        Raises:
          CheckpointError: There is none, or it is of another run.
        """
        step = self.newest
        if step is None:
            raise CheckpointError(
                f"{self.path} holds no checkpoint",
                "there is nothing to go on with",
                "leave out --resume",
            )
        saved = self._manager.restore(
            step, args=ocp.args.Composite(run=ocp.args.JsonRestore())
        )["run"]
        check_same(saved, run, self.path)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found: State = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        )["state"]
        return found

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *failure: object) -> None:
        self._manager.close()
