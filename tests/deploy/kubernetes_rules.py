"""What Kubernetes and KubeRay do with manifests, as far as the tests need it: injected containers, admission, policies.

Read from the sources of KubeRay 1.7.0 (`ray-operator/controllers/ray/common/pod.go`, `job.go`,
`raycluster_controller.go`) and from the Pod Security Standards of Kubernetes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoloc import cli

Document = dict[str, Any]
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret", "name"),
}
_FLAGS = Path(__file__).parents[1] / "cli_flags.txt"
_INJECTED_RESOURCES = {
    "requests": {"cpu": "200m", "memory": "256Mi"},
    "limits": {"cpu": "200m", "memory": "256Mi"},
}


def ray_cluster_spec(documents: Sequence[Document]) -> Document:
    """The specification of the one Ray cluster among rendered documents."""
    (spec,) = [
        document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterConfig"]
        for document in documents
        if document["kind"] in ("RayCluster", "RayService")
    ]
    assert isinstance(spec, dict)
    return spec


def injected_pods(document: Document) -> list[Document]:
    """The pod templates that come of a document, with the containers that KubeRay adds."""
    kind = document["kind"]
    if kind == "RayJob":
        return [_submitter(document["spec"])]
    if kind in ("RayCluster", "RayService"):
        spec = ray_cluster_spec([document])
        heads = [_head(spec)]
        if "gcsFaultToleranceOptions" in spec:
            heads.append(_redis_cleanup(spec))
        return heads + [_worker(group["template"]) for group in spec["workerGroupSpecs"]]
    return [document["spec"]["template"]] if kind in ("StatefulSet", "Deployment") else []


def _head(spec: Document) -> Document:
    """BuildAutoscalerContainer and mergeAutoscalerOverrides: the sidecar has the context of the options, or none."""
    template = copy.deepcopy(spec["headGroupSpec"]["template"])
    if spec.get("enableInTreeAutoscaling"):
        options = spec.get("autoscalerOptions", {})
        sidecar = {
            "name": "autoscaler",
            "image": template["spec"]["containers"][0]["image"],
            "resources": options.get("resources", _INJECTED_RESOURCES),
        }
        if "securityContext" in options:
            sidecar["securityContext"] = options["securityContext"]
        template["spec"]["containers"].append(sidecar)
    return template


def _worker(template: Document) -> Document:
    """DefaultWorkerPodTemplate: `wait-gcs-ready` has the context of the Ray container."""
    template = copy.deepcopy(template)
    ray_node = template["spec"]["containers"][0]
    waiting = {"name": "wait-gcs-ready", "image": ray_node["image"], "resources": _INJECTED_RESOURCES}
    if "securityContext" in ray_node:
        waiting["securityContext"] = ray_node["securityContext"]
    template["spec"]["initContainers"] = [waiting]
    return template


def _redis_cleanup(spec: Document) -> Document:
    """buildRedisCleanupJob: the head's pod with the Ray container alone."""
    template = copy.deepcopy(spec["headGroupSpec"]["template"])
    template["spec"]["containers"] = template["spec"]["containers"][:1]
    template["spec"]["containers"][0]["resources"] = _INJECTED_RESOURCES
    template["spec"]["restartPolicy"] = "Never"
    return template


def _submitter(spec: Document) -> Document:
    """GetSubmitterTemplate: the template of the job, else a container without any context."""
    if "submitterPodTemplate" in spec:
        return copy.deepcopy(spec["submitterPodTemplate"])
    container = {"name": "ray-job-submitter", "image": "geoloc", "resources": _INJECTED_RESOURCES}
    return {"spec": {"containers": [container], "restartPolicy": "Never"}}


def restricted_problems(pod: Document) -> list[str]:
    """What the Pod Security Standard `restricted` refuses in a pod's specification; empty when it is admitted."""
    problems = [f"pod: {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    for volume in pod.get("volumes", []):
        problems += [f"volume: {kind}" for kind in set(volume) - _VOLUMES]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        context = pod.get("securityContext", {}) | container.get("securityContext", {})
        problems += [f"{container['name']}: {field}" for field in _refused(context)]
    return problems


def _refused(context: Document) -> list[str]:
    """Fields of a security context, merged with the pod's, that the standard refuses."""
    capabilities = context.get("capabilities", {})
    drops_all = "ALL" in capabilities.get("drop", [])
    seccomp = context.get("seccompProfile", {}).get("type")
    admitted = {
        "privileged": not context.get("privileged"),
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "capabilities": drops_all and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "runAsUser": context.get("runAsUser") != 0,
        "seccompProfile": seccomp in ("RuntimeDefault", "Localhost"),
    }
    return [field for field, good in admitted.items() if not good]


def reaches(
    policy: Document, source: dict[str, str], namespace: str, target: dict[str, str], port: int
) -> bool:
    """Whether a pod with labels in a namespace reaches a TCP port of a pod in the policy's own namespace."""
    spec = policy["spec"]
    if not _matches(spec["podSelector"], target):
        return True  # the policy does not choose the target: everything is let in
    here = policy["metadata"]["namespace"]
    return any(
        _port_open(rule.get("ports"), port)
        and ("from" not in rule or any(_peer(peer, source, namespace, here) for peer in rule["from"]))
        for rule in spec["ingress"]
    )


def _peer(peer: Document, source: dict[str, str], namespace: str, here: str) -> bool:
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
            return False
    elif namespace != here:
        return False
    return _matches(peer.get("podSelector") or {}, source)


def _matches(selector: Document, labels: dict[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())


def _port_open(ports: list[Document] | None, port: int) -> bool:
    return ports is None or any(one["port"] == port for one in ports)


def check_command(words: Sequence[str]) -> None:
    """Fail when words begin with no command of geoloc, or have an option that it lacks."""
    name, _, rest = cli.find_command(list(words))
    flags = dict(line.split(": ", 1) for line in _FLAGS.read_text().splitlines() if ": " in line)
    assert {word for word in rest if word.startswith("--")} <= set(flags[name].split()), words
