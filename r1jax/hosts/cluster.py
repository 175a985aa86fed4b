"""Who the processes of one program are: as flags say, or as the environment does.

`jax.distributed.initialize` finds most of this out by itself, but keeps it private, and
waits in C++ for processes that do not come. So the few variables are read here, and
`join` gives JAX all it asks for.
"""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from r1jax.errors import ConfigError

_PORT = 8476  # of the coordinator, where only its host is known
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_METADATA_SECONDS = 5


@dataclass(frozen=True)
class Cluster:
    """The processes of one program, as one of them sees them before they have met.

    Attributes:
      coordinator: "host:port", where process 0 waits for the others.
      processes: How many there are.
      index: Which one this is, from 0.
      device: The only one of the host's GPUs that this process uses; None for all.
    """

    coordinator: str
    processes: int
    index: int
    device: int | None = None

    def __post_init__(self) -> None:
        """Refuses numbers that cannot be.

        Raises:
          ConfigError: The index is out of range, or the address is none.
        """
        if not 0 <= self.index < self.processes:
            raise ConfigError(
                f"process {self.index} of {self.processes}",
                f"processes are numbered from 0 to {self.processes - 1}",
                "give each process its own --process-id, below --num-processes",
            )
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(
                f"the coordinator is {self.coordinator!r}",
                "process 0 waits for the others at a host and a port",
                "write --coordinator HOST:PORT, the same for all processes",
            )

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def detect(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Finds the processes of this program; None for a process on its own.

    Args:
      coordinator: "host:port", where process 0 waits. With it come the other two, or
        none of the three: then the environment tells, on TPU slices, under Slurm and
        under Open MPI.
      processes: How many processes there are.
      index: Which one this is.
      environment: The environment's variables.

    Raises:
      ConfigError: Some of the three are missing, or out of range.
    """
    given = {
        "--coordinator": coordinator,
        "--num-processes": processes,
        "--process-id": index,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        found = _slurm(environment) or _open_mpi(environment) or _tpu(environment)
    elif missing:
        said = [name for name in given if name not in missing]
        raise ConfigError(
            f"{' and '.join(said)} without {' and '.join(missing)}",
            "a process must know where to meet the others, how many, and its number",
            "give all three, or none where Slurm, MPI or a TPU slice tells them",
        )
    else:
        assert coordinator is not None
        assert processes is not None
        assert index is not None
        found = Cluster(coordinator, processes, index)
    return found if found and found.processes > 1 else None


def _slurm(env: Mapping[str, str]) -> Cluster | None:
    """Reads what `srun` sets; one process a GPU where a node runs several."""
    nodes, job = env.get("SLURM_STEP_NODELIST"), env.get("SLURM_JOB_ID")
    tasks = env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS"))
    if not (nodes and job and tasks and "SLURM_PROCID" in env):
        return None
    count, hosts = int(tasks), int(env.get("SLURM_STEP_NUM_NODES", 1))
    local = int(env.get("SLURM_LOCALID", 0)) if count > hosts else None
    # Jobs that share a node need ports of their own.
    port = 61440 + int(job) % 4096
    address = f"{_first_node(nodes)}:{port}"
    return Cluster(address, count, int(env["SLURM_PROCID"]), local)


def _first_node(nodes: str) -> str:
    """Returns the first of Slurm's "a1,b2" or "node[003-007,9],other"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    assert found
    return found[1] + (found[2] or "")


def _open_mpi(env: Mapping[str, str]) -> Cluster | None:
    """Reads what `mpirun` sets, up to version 4; process 0 runs where it does."""
    uri = env.get("OMPI_MCA_orte_hnp_uri", "")
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    if not all(name in env for name in names) or "tcp://" not in uri:
        return None
    host = uri.partition("tcp://")[2].replace(":", ",").partition(",")[0]
    count, index = (int(env[name]) for name in names)
    on_host = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    local = int(env.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)) if on_host > 1 else None
    return Cluster(f"{host}:{_PORT}", count, index, local)


def _tpu(env: Mapping[str, str]) -> Cluster | None:
    """Reads what GKE sets on a slice's hosts, or asks a TPU VM's metadata.

    Importing JAX has set TPU_SKIP_MDS_QUERY where there is no TPU.
    """
    if "tpu" not in env.get("JAX_PLATFORMS", "tpu"):
        return None
    names = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    index = env.get("TPU_WORKER_ID")
    if not names and "TPU_SKIP_MDS_QUERY" not in env:
        names = _metadata("worker-network-endpoints")
        index = _metadata("agent-worker-number")
    if not names or index is None or not index.isdecimal():
        return None
    workers = [_host(entry) for entry in names.split(",")]
    slices, mine = (int(env.get(f"MEGASCALE_{n}", d)) for n, d in _SLICES)
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS", workers[0]).partition(":")[0]
    place = mine * len(workers) + int(index)
    return Cluster(f"{first}:{_PORT}", slices * len(workers), place)


_SLICES = (("NUM_SLICES", 1), ("SLICE_ID", 0))


def _host(entry: str) -> str:
    """Returns the host of "name", "name:port" or the metadata's "name:id:address"."""
    parts = entry.strip().split(":")
    return parts[2] if len(parts) == 3 else parts[0]


def _metadata(key: str) -> str | None:
    """Asks a Google Cloud machine about itself; None where nobody answers."""
    request = urllib.request.Request(
        _METADATA + key, headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None
