"""Real processes on one machine, each with a CPU device of its own."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hosts.processes import Process, Site, flags, free_port, make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """Makes tiny models."""

    @functools.cache
    def make(name: str) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / name)

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
