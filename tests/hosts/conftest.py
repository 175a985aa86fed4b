"""Real processes on one machine, each with a CPU device of its own."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hosts.processes import ROOT, Process, Site, flags, free_port

GOLDENS = ROOT / "tests" / "goldens"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """Makes tiny models whose 96 words are the printable letters."""

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / name
        shutil.copytree(GOLDENS / name, folder)
        letters = ["Ġ", *map(chr, range(33, 127)), "Ċ"]
        backend = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text("{}")
        return folder

    return make


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where servers keep compiled steps for each other."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def launch() -> Iterator[Callable[..., Process]]:
    """Starts programs, and ends at last what is left of them."""
    started: list[Process] = []

    def start(*command: object) -> Process:
        started.append(Process(command))
        return started[-1]

    yield start
    for process in started:
        process.started.kill()
        process.wait()


@pytest.fixture
def serve(launch, checkpoint, cache) -> Iterator[Callable[..., Site]]:
    """Serves a model from so many processes."""
    sites: list[Site] = []

    def start(name: str, count: int, *more: object) -> Site:
        group = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", count)
        processes = [
            launch(
                *flags(checkpoint(name), cache), *group, *more, "--process-id", index
            )
            for index in range(count)
        ]
        sites.append(Site(processes))
        return sites[-1]

    yield start
    for site in sites:
        site.client.close()
