"""Everything that is applied elsewhere, checked as far as it can be without a cluster."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.kubernetes_rules import (
    check_command,
    injected_pods,
    ray_cluster_spec,
    reaches,
    restricted_problems,
)

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
OVERLAYS = [f"k8s/overlays/{size}/{kind}" for size in ("dev", "city") for kind in ("cluster", "service")]
JOBS = [
    f"k8s/jobs/{path.name}" for path in sorted((ROOT / "k8s" / "jobs").iterdir()) if path.name != "template"
]
KUSTOMIZATIONS = [*OVERLAYS, *JOBS]
SCHEMAS = {"RayService": "rayservices", "RayJob": "rayjobs", "RayCluster": "rayclusters"}


@lru_cache
def _text_of(directory: str) -> str:
    return subprocess.run(
        [BIN / "kubectl", "kustomize", ROOT / directory], capture_output=True, text=True, check=True
    ).stdout


def _rendered(directory: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(_text_of(directory)))


def _one(directory: str, kind: str) -> dict[str, Any]:
    (document,) = [document for document in _rendered(directory) if document["kind"] == kind]
    return document


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown keys refused wherever it lists the known ones: a typing error must not pass."""
    closed = copy.deepcopy(schema)

    def close(node: Any) -> None:
        if isinstance(node, dict):
            if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            for value in node.values():
                close(value)
        elif isinstance(node, list):
            for value in node:
                close(value)

    close(closed)
    closed["properties"]["metadata"] = {"type": "object"}
    return closed


def _with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        filled = {name: field["default"] for name, field in known.items() if "default" in field} | value
        return {name: _with_defaults(inner, known.get(name, {})) for name, inner in filled.items()}
    if isinstance(value, list):
        return [_with_defaults(inner, schema.get("items", {})) for inner in value]
    return value


def _check(document: dict[str, Any], shared_data: Path) -> None:
    name = f"{SCHEMAS[document['kind']]}.v1.schema.json"
    schema = json.loads((shared_data / "kuberay" / name).read_text())["openAPIV3Schema"]
    jsonschema.Draft7Validator(_closed(schema)).validate(_with_defaults(document, schema))


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_ray_resources_fit_the_schemas_of_kuberay(directory: str, shared_data: Path) -> None:
    found = [document for document in _rendered(directory) if document["kind"] in SCHEMAS]
    assert len(found) == 1
    assert found[0]["apiVersion"] == "ray.io/v1"
    _check(found[0], shared_data)


def test_the_check_of_the_schemas_sees_a_misspelt_key(shared_data: Path) -> None:
    service = _one("k8s/overlays/dev/service", "RayService")
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        _check(service, shared_data)


@pytest.mark.parametrize("directory", [*OVERLAYS, JOBS[0]])
def test_core_objects_fit_kubernetes(directory: str, tmp_path: Path) -> None:
    core = [document for document in _rendered(directory) if document["kind"] not in SCHEMAS]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod["spec"]}
        for document in _rendered(directory)
        for pod in injected_pods(document)
    ]
    files = []
    for number, document in enumerate([*core, *pods]):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(document))
    subprocess.run([BIN / "kubernetes-validate", "--strict", *files], check=True, capture_output=True)


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_every_kustomization_brings_the_namespace_the_keys_and_the_policy(directory: str) -> None:
    documents = _rendered(directory)
    named = {(document["kind"], document["metadata"]["name"]) for document in documents}
    wanted = {("Namespace", "geoloc"), ("Secret", "geoloc-s3"), ("NetworkPolicy", "geoloc-ray")}
    assert wanted <= named
    namespaces = {one["metadata"].get("namespace") for one in documents if one["kind"] != "Namespace"}
    assert namespaces == {"geoloc"}
    references = [name for document in documents for name in _secrets(document)]
    assert set(references) <= {name for kind, name in named if kind == "Secret"}


def _secrets(node: Any) -> list[str]:
    """Names of the secrets that pods below a node take values from."""
    if isinstance(node, dict):
        found = [node[key]["name"] for key in ("secretRef", "secretKeyRef") if key in node]
        return found + [name for value in node.values() for name in _secrets(value)]
    return [name for value in node for name in _secrets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_all_pods_are_admitted_by_the_namespace_with_what_kuberay_puts_into_them(directory: str) -> None:
    (level,) = {
        document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for document in _rendered(directory)
        if document["kind"] == "Namespace"
    }
    assert level == "restricted"
    pods = [pod for document in _rendered(directory) for pod in injected_pods(document)]
    assert pods
    for pod in pods:
        assert restricted_problems(pod["spec"]) == []
        for container in pod["spec"]["containers"]:
            assert container["image"].split(":")[0] in ("geoloc", "geoloc-gpu", "redis")
            assert ":" in container["image"]
            assert {"requests", "limits"} <= set(container["resources"])
            assert container["resources"]["limits"]["memory"]


def test_the_check_of_admission_sees_what_kuberay_injects() -> None:
    cluster = _one("k8s/overlays/dev/cluster", "RayCluster")
    del cluster["spec"]["autoscalerOptions"]["securityContext"]
    problems = [problem for pod in injected_pods(cluster) for problem in restricted_problems(pod["spec"])]
    assert problems == ["autoscaler: allowPrivilegeEscalation", "autoscaler: capabilities"]
    job = _one("k8s/jobs/ingest", "RayJob")
    del job["spec"]["submitterPodTemplate"]
    (pod,) = injected_pods(job)
    assert len(restricted_problems(pod["spec"])) == 4


def test_workers_take_over_nothing_of_the_head() -> None:
    for directory in OVERLAYS:
        spec = ray_cluster_spec(_rendered(directory))
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert spec["authOptions"]["mode"] == "token"
        assert spec["enableInTreeAutoscaling"]
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    city = ray_cluster_spec(_rendered("k8s/overlays/city/cluster"))
    gpu = next(group for group in city["workerGroupSpecs"] if group["groupName"] == "gpu")
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["image"] == "geoloc-gpu:0.1.0"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for directory in ("k8s/overlays/city/cluster", "k8s/overlays/city/service"):
        redis = ray_cluster_spec(_rendered(directory))["gcsFaultToleranceOptions"]["redisAddress"]
        service = _one(directory, "Service")
        assert redis == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("directory", [one for one in OVERLAYS if one.endswith("service")])
def test_the_service_names_an_application_that_exists(directory: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from geoloc.serving.app import ServeArgs, build_app

    service = _one(directory, "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    application = config.applications[0]
    assert application.import_path == f"{build_app.__module__}:{build_app.__name__}"
    ServeArgs.model_validate(application.args)
    assert service["spec"]["upgradeStrategy"]["type"] == "NewCluster"


NODE = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}


@pytest.mark.parametrize(
    ("source", "namespace", "ports"),
    [
        (NODE, "geoloc", {6379, 8265, 8000, 8080, 10001}),
        ({"app.kubernetes.io/name": "kuberay-operator"}, "default", {8265, 8000}),
        ({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-operator", {8265, 8000}),
        ({"app.kubernetes.io/component": "submitter"}, "geoloc", {8265, 8000}),
        ({"app.kubernetes.io/component": "submitter"}, "default", {8000}),
        ({"app.kubernetes.io/name": "prometheus"}, "monitoring", {8080, 8000}),
        ({}, "geoloc", {8000}),
        ({"ray.io/is-ray-node": "yes"}, "default", {8000}),
        ({}, "default", {8000}),
    ],
)
def test_who_reaches_which_port_of_ray(source: dict[str, str], namespace: str, ports: set[int]) -> None:
    policy = next(
        document
        for document in _rendered("k8s/overlays/city/cluster")
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"] == "geoloc-ray"
    )
    asked = {6379, 8265, 8000, 8080, 10001}
    assert {port for port in asked if reaches(policy, source, namespace, NODE, port)} == ports


def test_only_nodes_reach_redis() -> None:
    policy = next(
        document
        for document in _rendered("k8s/overlays/city/cluster")
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"] == "geoloc-redis"
    )
    labels = _one("k8s/overlays/city/cluster", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert reaches(policy, NODE, "geoloc", labels, 6379)
    assert not reaches(policy, {}, "geoloc", labels, 6379)
    assert not reaches(policy, NODE, "default", labels, 6379)


@pytest.mark.parametrize("directory", JOBS)
def test_a_job_is_a_command_line_that_parses_and_runs_on_the_standing_cluster(directory: str) -> None:
    job = _one(directory, "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "geoloc"
    check_command(words[1:])
    cluster = _one("k8s/overlays/dev/cluster", "RayCluster")["metadata"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["name"]}
    assert job["metadata"]["namespace"] == cluster["namespace"]
    assert "shutdownAfterJobFinishes" not in job["spec"]  # the cluster stays
    assert "backoffLimit" not in job["spec"]  # KubeRay refuses it with a selector


def test_there_is_a_job_for_every_stage_and_each_reads_what_another_one_wrote() -> None:
    entrypoints = {path: _one(path, "RayJob")["spec"]["entrypoint"].split() for path in JOBS}
    assert {path.rsplit("/", 1)[1] for path in JOBS} == {
        *("ingest", "train", "encode", "index", "evaluate", "localize", "pipeline", "demo")
    }
    written = {words[words.index("--output") + 1] for words in entrypoints.values()}
    given = {"s3://maps/sheets", "s3://maps/photos", "s3://maps/inbox", "s3://maps/city.yaml"}
    for words in entrypoints.values():
        uris = {word for word in words if word.startswith("s3://")}
        assert uris <= written | given


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "ray_cluster_ssh.yaml"])
def test_cluster_files_are_what_ray_up_takes(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / name).read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config | {"idle_timeout": 3}))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert (ROOT / config["file_mounts"]["~/cluster.env"]).exists()


def test_the_environment_of_the_machines_is_what_login_shells_read(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "ray_cluster_ssh.yaml").read_text())
    (tmp_path / "cluster.env").write_text((ROOT / "deploy" / "cluster.env").read_text())
    (tmp_path / "geoloc" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "geoloc" / ".venv" / "bin" / "python").symlink_to(sys.executable)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):  # `ray up` runs the set-up again
        subprocess.run(["bash", "-c", config["setup_commands"][1]], env=environment, check=True)
    asked = "source ~/.bashrc; echo $RAY_AUTH_MODE $AWS_REGION; which python"  # as `ray submit` asks
    answer = subprocess.run(
        ["bash", "--login", "-c", "-i", asked], env=environment, check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == ["token", "us-east-1", str(tmp_path / "geoloc/.venv/bin/python")]
    assert (tmp_path / ".bashrc").read_text().count("cluster.env") == 1


def test_container_file_has_no_finding() -> None:
    subprocess.run([BIN / "hadolint", ROOT / "deploy" / "Dockerfile"], check=True, capture_output=True)


@pytest.mark.parametrize("directory", [one for one in OVERLAYS if one.endswith("service")])
def test_a_service_that_others_reach_wants_keys_and_every_pod_has_them(directory: str) -> None:
    service = _one(directory, "RayService")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert serve["http_options"]["host"] == "0.0.0.0"
    (application,) = serve["applications"]
    place = Path(application["args"]["keys"])
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}
        secret = next(
            one
            for one in _rendered(directory)
            if one["kind"] == "Secret" and one["metadata"]["name"] == volumes[mounts[str(place.parent)]]
        )
        assert place.name in secret["data"]


def test_the_keys_that_are_shipped_open_nothing() -> None:
    from geoloc.serving.access import read_keys

    (key,) = read_keys(str(ROOT / "k8s" / "service" / "keys.json"))
    assert (
        key.sha256 == "0" * 64
    )  # the hash of no key that anybody knows; a file without keys would ask for none
