"""Who the processes are: by flags, or by what each environment sets."""

import pytest

from r1jax.errors import ConfigError
from r1jax.hosts import Cluster, cluster, detect

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[003-007,9],other",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NUM_NODES": "6",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a-0.b,a-1.b,a-2.b,a-3.b", "TPU_WORKER_ID": "3"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",
}


def test_flags_say_it_all():
    assert detect("h:1234", 4, 2, {}) == Cluster("h:1234", 4, 2)
    assert Cluster("[::1]:80", 2, 0).address == ("::1", 80)


def test_a_process_on_its_own_is_no_cluster():
    assert detect(environment={"TPU_SKIP_MDS_QUERY": "1"}) is None
    assert detect("h:1", 1, 0, {}) is None


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("h:1", 4, None), "--coordinator and --num-processes without --process-id"),
        ((None, None, 3), "--process-id without --coordinator and --num-processes"),
        (("h:1", 4, 4), "process 4 of 4"),
        (("h:1", 4, -1), "process -1 of 4"),
        (("h", 4, 0), "the coordinator is 'h'"),
        (("h:0", 4, 0), "the coordinator is 'h:0'"),
        ((":80", 4, 0), "the coordinator is ':80'"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, what):
    with pytest.raises(ConfigError) as raised:
        detect(*given, {})
    assert raised.value.what == what


def test_slurm_is_found():
    assert detect(environment=SLURM) == Cluster("node003:61441", 6, 2)


@pytest.mark.parametrize(
    ("nodes", "first"), [("n7", "n7"), ("n7,m8", "n7"), ("n[7,9-10]", "n7")]
)
def test_slurms_first_node_coordinates(nodes, first):
    found = detect(environment=SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found.address[0] == first


def test_several_slurm_tasks_on_a_node_take_a_gpu_each():
    several = SLURM | {"SLURM_STEP_NUM_NODES": "3", "SLURM_LOCALID": "1"}
    assert detect(environment=several).device == 1


def test_one_slurm_task_is_no_cluster():
    one = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert detect(environment=SLURM | one) is None


def test_open_mpi_is_found():
    assert detect(environment=OPEN_MPI) == Cluster("10.96.0.1:8476", 4, 1)


def test_a_slice_on_gke_is_found():
    assert detect(environment=GKE) == Cluster("a-0.b:8476", 4, 3)


def test_several_slices_are_one_program():
    slices = {
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "a-0.b:8080",
    }
    assert detect(environment=GKE | slices) == Cluster("a-0.b:8476", 8, 7)


def test_a_notebook_with_one_tpu_is_no_cluster():
    colab = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    assert detect(environment=colab) is None


def test_a_slice_is_left_alone_by_who_wants_the_cpu():
    assert detect(environment=GKE | {"JAX_PLATFORMS": "cpu"}) is None


def test_a_tpu_vm_asks_its_metadata(monkeypatch):
    answers = {
        "worker-network-endpoints": "unknown:1:10.0.0.7,unknown:2:10.0.0.8",
        "agent-worker-number": "1",
    }
    monkeypatch.setattr(cluster, "_metadata", answers.get)
    assert detect(environment={}) == Cluster("10.0.0.7:8476", 2, 1)


def test_a_machine_without_metadata_is_no_cluster(monkeypatch):
    monkeypatch.setattr(cluster, "_METADATA", "http://127.0.0.1:9/")
    assert detect(environment={}) is None
