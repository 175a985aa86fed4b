"""The image's recipe: every file, flag and extra that it names is there."""

import json
import re
import shlex

import pytest

from deploy import probe
from hosts.processes import ROOT
from r1jax.serve.flags import parser

RECIPE = ROOT / "deploy" / "containers" / "Dockerfile"


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Gives the recipe's instructions, continued lines joined."""
    lines = RECIPE.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined if line.strip()]


def of(steps, name) -> list[str]:
    return [rest for step, rest in steps if step == name]


def copied(steps) -> list[tuple[list[str], str]]:
    """What is copied out of the repository, and whereto."""
    lines = [shlex.split(rest) for rest in of(steps, "COPY")]
    return [(line[:-1], line[-1]) for line in lines if "--from" not in line[0]]


def test_what_is_copied_is_there_and_sent_to_the_builder(steps):
    ignore = RECIPE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")
    sent = [line[1:] for line in ignore.splitlines() if line.startswith("!")]
    sources = [source for names, _ in copied(steps) for source in names]
    assert sorted(sources) == sorted(sent)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_entry_is_a_command_of_the_server(steps):
    [entry] = of(steps, "ENTRYPOINT")
    tini, end, python, m, module, *flags = json.loads(entry)
    assert (tini, end, python, m) == ("tini", "--", "python", "-m")
    args = parser().parse_args([*flags, "MODEL"])
    assert (module, args.host, args.source) == ("r1jax.serve", "0.0.0.0", "MODEL")
    [volume] = of(steps, "VOLUME")
    assert args.compilation_cache.startswith(f"{volume}/")
    assert of(steps, "EXPOSE") == [str(args.port)]


def test_it_asks_after_its_health(steps):
    [check] = of(steps, "HEALTHCHECK")
    python, script = json.loads(check.partition("CMD ")[2])
    folder, _, name = script.rpartition("/")
    assert python == "python"
    assert ([f"deploy/{name}"], f"{folder}/") in [
        ([source], target) for names, target in copied(steps) for source in names
    ]
    assert f"http://127.0.0.1:{parser().get_default('port')}/health" == probe._URL


def test_its_devices_are_extras_and_its_user_is_not_root(steps):
    [install] = [rest for rest in of(steps, "RUN") if "pip install" in rest]
    extras = set(re.search(r"(\w+ \| \w+)\)", install)[1].split(" | "))
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    known = set(re.findall(r'^        "(\w+)": ', setup, re.MULTILINE))
    assert extras == {"tpu", "cuda"}
    assert extras | {"serve", "gcs"} <= known
    [user] = of(steps, "USER")
    assert all(int(number) > 0 for number in user.split(":"))  # as Kubernetes wants it
    bases = [rest.split()[0] for rest in of(steps, "FROM")]
    assert set(bases) == {"python:${PYTHON}"}
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", of(steps, "ARG")[0])
