"""Manifests: of the form that Kubernetes takes, and of one mind with the server."""

import math
import os
import signal
import subprocess
import time

import jax
import pytest

from deploy import manifests
from r1jax.serve.flags import parser
from r1jax.serve.gate import OPEN_PATHS

GROUPS = ("jobset.yaml", "leaderworkerset.yaml")


@pytest.fixture(params=GROUPS)
def group(request) -> manifests.Document:
    """Gives a set of pods, one for each host of a slice."""
    return manifests.read(request.param)[0]


def container(group) -> manifests.Document:
    [server] = manifests.pod(group)["spec"]["containers"]
    return server


def flags(group):
    python, m, module, *arguments = container(group)["args"]
    assert [python, m, module] == ["python", "-m", "r1jax.serve"]
    return parser().parse_args(arguments)


def hosts(group) -> int:
    if group["kind"] == "LeaderWorkerSet":
        return group["spec"]["leaderWorkerTemplate"]["size"]
    job = manifests.job(group)["spec"]
    assert job["parallelism"] == job["completions"]
    return job["parallelism"]


@pytest.mark.parametrize("name", [*GROUPS, "network.yaml"])
def test_manifests_are_what_kubernetes_takes(name):
    for document in manifests.read(name):
        manifests.check(document)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("maxRestarts", "maxRestart"),
        ("FailJobSet", "FailJobset"),
        ("completionMode", "completionModus"),
        ("readinessProbe", "readyProbe"),
    ],
)
def test_a_misspelt_field_is_refused(right, wrong):
    text = (manifests.FOLDER / "jobset.yaml").read_text(encoding="utf-8")
    document = next(manifests.yaml.safe_load_all(text.replace(right, wrong)))
    with pytest.raises(manifests.REFUSALS, match=wrong):
        manifests.check(document)


def test_a_slice_has_the_chips_that_the_server_asks_for(group):
    spec, args = manifests.pod(group)["spec"], flags(group)
    topology = spec["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    assert args.data_parallel_size * args.tensor_parallel_size == chips
    on_host = container(group)["resources"]["limits"]["google.com/tpu"]
    assert hosts(group) * int(on_host) == chips


def test_requests_have_their_time_to_finish(group):
    pause = container(group)["lifecycle"]["preStop"]["exec"]["command"]
    assert pause[0] == "sleep"
    needed = int(pause[1]) + flags(group).shutdown_timeout
    assert manifests.pod(group)["spec"]["terminationGracePeriodSeconds"] > needed + 15


def test_probes_ask_what_is_answered_without_a_key(group):
    server = container(group)
    [port] = server["ports"]
    assert port["containerPort"] == flags(group).port
    for probe, path in (("startup", "/"), ("liveness", "/"), ("readiness", "/health")):
        _, script, url = server[f"{probe}Probe"]["exec"]["command"]
        assert script == "/opt/r1jax/probe.py"
        assert path in OPEN_PATHS
        assert url == f"http://127.0.0.1:{flags(group).port}{path}"


def test_the_environment_is_of_what_jax_knows(group):
    names = [variable["name"] for variable in container(group)["env"]]
    ours = [name.lower() for name in names if name.startswith("JAX_")]
    assert "jax_compilation_cache_dir" in ours
    assert set(ours) <= set(jax.config.values)


def test_both_groups_run_the_same_pods():
    first, second = (manifests.pod(manifests.read(name)[0]) for name in GROUPS)
    for differs in (first, second):
        differs["spec"].pop("restartPolicy", None)
        differs["spec"]["containers"][0].pop("command")
    assert first == second


@pytest.mark.parametrize("name", GROUPS)
def test_clients_reach_process_0_and_hosts_each_other(name):
    group, service = manifests.read(name)
    selector = service["spec"]["selector"]
    indices = [value for key, value in selector.items() if key.endswith("-index")]
    assert indices == ["0"]
    assert group["metadata"]["name"] in selector.values()
    [port] = container(group)["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    [policy] = manifests.read("network.yaml")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= manifests.pod(group)["metadata"]["labels"].items()
    hosts_rule, others = policy["spec"]["ingress"]
    assert hosts_rule == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    assert others["ports"] == [{"protocol": "TCP", "port": port["name"]}]


def shell_of_jobset() -> list[str]:
    """Returns the JobSet's shell without raising limits, which takes root."""
    tini, g, end, *shell = container(manifests.read("jobset.yaml")[0])["command"]
    assert (tini, g, end) == ("tini", "-g", "--")
    limit, _, rest = shell[2].partition("; ")
    assert limit.startswith("ulimit ")
    return [*shell[:2], rest, shell[3]]


@pytest.mark.parametrize(("code", "told"), [(0, 143), (1, 1), (2, 2)])
def test_a_job_is_never_done(code, told):
    command = [*shell_of_jobset(), "sh", "-c", f"exit {code}"]
    assert subprocess.run(command, check=False).returncode == told


def test_a_drained_host_lets_requests_finish_and_begins_again(tmp_path):
    ready, done = tmp_path / "ready", tmp_path / "done"
    server = (
        f"trap 'sleep 0.3; touch {done}; exit 0' TERM; touch {ready}; sleep 9 & wait"
    )
    command = [*shell_of_jobset(), "sh", "-c", server]
    with subprocess.Popen(command, start_new_session=True) as process:
        while not ready.exists():
            time.sleep(0.01)
        # As `tini -g` does: to the shell and what it runs.
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
        assert done.exists()
