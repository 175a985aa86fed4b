"""The Kubernetes manifests, checked against the core schemas of one version.

JobSet and LeaderWorkerSet are not of the core. What stands in them is, a job and a pod
template; of their own fields the few that are used are listed here.
"""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml

from hosts.processes import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.32"  # that is no newer than what clusters run
Document = dict[str, Any]
REFUSALS = (ValueError, kubernetes_validate.ValidationError)

_FIELDS = {
    "JobSet": {"network", "failurePolicy", "replicatedJobs"},
    "JobSet.network": {"publishNotReadyAddresses"},
    "JobSet.failurePolicy": {"maxRestarts", "rules"},
    "JobSet.failurePolicy.rules": {"name", "action", "onJobFailureReasons"},
    "JobSet.replicatedJobs": {"name", "replicas", "template"},
    "LeaderWorkerSet": {
        "replicas",
        "startupPolicy",
        "rolloutStrategy",
        "leaderWorkerTemplate",
    },
    "LeaderWorkerSet.rolloutStrategy": {"type", "rollingUpdateConfiguration"},
    "LeaderWorkerSet.rolloutStrategy.rollingUpdateConfiguration": {"maxUnavailable"},
    "LeaderWorkerSet.leaderWorkerTemplate": {"size", "restartPolicy", "workerTemplate"},
}
_VALUES = {
    "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
    "startupPolicy": {"LeaderCreated", "LeaderReady"},
    "restartPolicy": {"RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
    "type": {"RollingUpdate"},
}


def read(name: str) -> list[Document]:
    """Reads the documents of a manifest."""
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def job(jobset: Document) -> Document:
    """Returns the job of a JobSet as an object of its own."""
    [replicated] = jobset["spec"]["replicatedJobs"]
    name = {"metadata": {"name": replicated["name"]}}
    return {"apiVersion": "batch/v1", "kind": "Job", **name, **replicated["template"]}


def pod(document: Document) -> Document:
    """Returns the pod of a JobSet or LeaderWorkerSet as an object of its own."""
    if document["kind"] == "JobSet":
        template = job(document)["spec"]["template"]
    else:
        template = document["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", **template["metadata"]},
        "spec": template["spec"],
    }


def check(document: Document) -> None:
    """Checks a document, and what stands in it.

    Raises:
      ValueError: A field of a custom resource is not known.
      kubernetes_validate.ValidationError: The core's schema is not met.
    """
    kind = document["kind"]
    if kind not in ("JobSet", "LeaderWorkerSet"):
        _check_core(document)
        return
    for place, fields in _objects(kind, document["spec"]):
        if strange := fields.keys() - _FIELDS[place]:
            raise ValueError(f"{place} has no {strange}")
        for name, values in _VALUES.items():
            if name in fields and fields[name] not in values:
                raise ValueError(f"{place}.{name} is {fields[name]}")
    _check_core(job(document) if kind == "JobSet" else pod(document))


def _check_core(document: Document) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def _objects(place: str, node: Any) -> Iterator[tuple[str, Document]]:
    """Lists the objects of a custom resource down to what the core knows."""
    if isinstance(node, list):
        for item in node:
            yield from _objects(place, item)
    if isinstance(node, dict):
        yield place, node
        for name, child in node.items():
            if name not in ("template", "workerTemplate"):
                yield from _objects(f"{place}.{name}", child)
