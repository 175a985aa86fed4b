"""Files of a repository, fetched into the hub's cache or found there.

First comes what describes the model, a few megabytes; the weights follow when it is
known that they can be used. Whole files stay whatever happens; a connection that
breaks goes on in the middle of a file, a process that is killed begins its unfinished
files again.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from r1jax.errors import CheckpointError
from r1jax.hub.errors import failures, may_pass, reason_of, refusal, root_of
from r1jax.hub.names import Repository
from r1jax.weights.files import some
from r1jax.weights.hf import TOKENIZER_FILES
from r1jax.weights.safetensors import INDEX, shard_names

# Names, not patterns: a pattern would also find what lies in folders.
_DESCRIPTION = ("config.json", "generation_config.json", INDEX, *TOKENIZER_FILES)
_PAUSES = (1, 4, 15, 60, 60)  # seconds before each new try that follows a vain one


def describe(repository: Repository) -> Path:
    """Fetches what describes a model, all but its weights.

    Where the hub cannot be asked, what an earlier call has fetched is taken, and a
    line on standard error says so; with HF_HUB_OFFLINE the hub is not asked.

    Returns:
      Its directory in the hub's cache, whose name is the commit.

    Raises:
      CheckpointError: It is not there, not for this user, or not a model.
    """
    from huggingface_hub import constants, snapshot_download

    offline = bool(constants.HF_HUB_OFFLINE)
    problem = None if offline or repository.fixed else _problem(repository)
    try:
        found = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=list(_DESCRIPTION),
            local_files_only=offline or problem is not None,
            tqdm_class=_Silent,
        )
    except failures() as error:
        raise refusal(repository, problem or root_of(error)) from None
    path = Path(found)
    if problem is not None:
        commit = Repository(repository.name, path.name)
        _say(f"{reason_of(problem)}: taking {commit} from the cache")
    if not (path / "config.json").exists():
        raise CheckpointError(
            f"{repository} has no config.json",
            "models are read in Hugging Face's layout: config.json and safetensors",
            "name such a repository; of one with GGUF files, download a file and name "
            "that",
        )
    return path


def bring_weights(repository: Repository, directory: Path) -> None:
    """Fetches the weights that belong to a description, as far as they are missing.

    Raises:
      CheckpointError: They are not there, there is no room for them, or the hub does
        not give them.
    """
    from huggingface_hub import constants

    names = shard_names(directory)
    missing = _missing(directory, names)
    if not missing:
        return
    commit = Repository(repository.name, directory.name)
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} files with the weights of {commit} are "
            "not in the cache",
            f"{some(missing)}: no download of them has ended, and HF_HUB_OFFLINE "
            "forbids to ask the hub",
            "unset it",
        )
    total = _size(commit, missing)
    free = shutil.disk_usage(directory).free
    if total > free:
        raise CheckpointError(
            f"{commit} needs {total / 1e9:.1f} GB more on the disk",
            f"{constants.HF_HUB_CACHE} has {free / 1e9:.1f} GB free",
            "make room, or let HF_HOME name a directory of a larger disk",
        )
    _say(f"fetching {commit}: {len(missing)} files, {total / 1e9:.2f} GB")
    began = time.monotonic()
    _download(commit, directory, names)
    _say(f"fetched {commit} in {time.monotonic() - began:.0f} s")


def _problem(repository: Repository) -> BaseException | None:
    """Asks the hub for the revision; returns why that fails."""
    from huggingface_hub import HfApi, constants

    patience = constants.HF_HUB_ETAG_TIMEOUT  # seconds
    try:
        HfApi().model_info(
            repository.name, revision=repository.revision, timeout=patience
        )
    except failures() as error:
        return error
    return None


def _size(commit: Repository, missing: list[str]) -> int:
    """Returns the bytes of files; refuses those that the repository has not."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(
            commit.name, revision=commit.revision, files_metadata=True
        )
    except failures() as error:
        raise refusal(commit, error) from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    absent = [name for name in missing if name not in sizes]
    if absent:
        others = [n for n in sizes if n.endswith((".bin", ".gguf", ".pth", ".pt"))]
        raise CheckpointError(
            f"{commit} has no {some(absent)}",
            f"weights are read from safetensors, and it has {some(others)}"
            if others
            else "weights are read from safetensors",
            "name a repository with safetensors; of GGUF files, download one and name "
            "that",
        )
    return sum(sizes[name] for name in missing)


def _download(commit: Repository, directory: Path, names: list[str]) -> None:
    """Downloads until nothing is missing, or several tries in a row bring nothing."""
    from huggingface_hub import snapshot_download

    vain, missing = 0, _missing(directory, names)
    while missing:
        try:
            snapshot_download(
                commit.name, revision=commit.revision, allow_patterns=missing
            )
            return
        except failures() as error:
            problem = root_of(error)
        before, missing = missing, _missing(directory, names)
        vain = vain + 1 if len(missing) == len(before) else 1
        if not may_pass(problem) or vain > len(_PAUSES):
            raise refusal(commit, problem)
        pause = _PAUSES[vain - 1]
        there = f"{len(names) - len(missing)} of {len(names)} files are there"
        _say(f"{reason_of(problem)}; {there}; trying again in {pause} s")
        time.sleep(pause)


def _missing(directory: Path, names: list[str]) -> list[str]:
    return [name for name in names if not (directory / name).exists()]


class _Silent(tqdm):  # type: ignore[misc]  # tqdm is untyped
    """No bar: what describes a model is small, and mostly there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **(options | {"disable": True}))


def _say(line: str) -> None:
    sys.stderr.write(f"r1jax: {line}\n")
