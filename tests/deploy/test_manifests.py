"""Everything that is applied elsewhere, checked as far as it can be without a cluster."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
KUSTOMIZATIONS = ["k8s/base", "k8s/overlays/gpu", "k8s/build-index"]
SCHEMAS = {"RayService": "rayservices", "RayJob": "rayjobs", "RayCluster": "rayclusters"}


def _rendered(directory: str) -> list[dict[str, Any]]:
    text = subprocess.run(
        [BIN / "kubectl", "kustomize", ROOT / directory], capture_output=True, text=True, check=True
    ).stdout
    return list(yaml.safe_load_all(text))


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
    assert found
    for document in found:
        assert document["apiVersion"] == "ray.io/v1"
        _check(document, shared_data)


def test_the_check_of_the_schemas_sees_a_misspelt_key(shared_data: Path) -> None:
    service = next(document for document in _rendered("k8s/base") if document["kind"] == "RayService")
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        _check(service, shared_data)


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_core_objects_fit_kubernetes(directory: str, tmp_path: Path) -> None:
    core = [document for document in _rendered(directory) if document["kind"] not in SCHEMAS]
    for document in core:
        path = tmp_path / f"{document['kind']}.yaml"
        path.write_text(yaml.safe_dump(document))
        subprocess.run([BIN / "kubernetes-validate", "--strict", path], check=True, capture_output=True)
    for document in _rendered(directory):
        for pod in _pods(document):
            path = tmp_path / "pod.yaml"
            path.write_text(
                yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, **pod})
            )
            subprocess.run([BIN / "kubernetes-validate", "--strict", path], check=True, capture_output=True)


def _pods(node: Any) -> list[dict[str, Any]]:
    """Pod templates anywhere below."""
    if isinstance(node, dict):
        own = [{"spec": node["template"]["spec"]}] if "spec" in node.get("template", {}) else []
        return own + [pod for value in node.values() for pod in _pods(value)]
    if isinstance(node, list):
        return [pod for value in node for pod in _pods(value)]
    return []


@pytest.mark.parametrize("directory", KUSTOMIZATIONS)
def test_pods_run_unprivileged_with_memory_limits(directory: str) -> None:
    pods = _pods(_rendered(directory))
    assert len(pods) >= 2
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            assert container["image"] == "geoloc:0.1.0"
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("directory", KUSTOMIZATIONS[:2])
def test_the_service_names_an_application_that_exists(directory: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from geoloc.serving.app import ServeArgs, build_app

    service = next(document for document in _rendered(directory) if document["kind"] == "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    application = config.applications[0]
    assert application.import_path == f"{build_app.__module__}:{build_app.__name__}"
    ServeArgs.model_validate(application.args)


def test_only_the_http_port_is_open_to_others() -> None:
    policy = next(document for document in _rendered("k8s/base") if document["kind"] == "NetworkPolicy")
    open_to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert [[port["port"] for port in ports] for ports in open_to_all] == [[8000]]


def test_the_job_is_a_command_line_that_parses() -> None:
    from geoloc.cli import find_command

    job = next(document for document in _rendered("k8s/build-index") if document["kind"] == "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[0] == "geoloc"
    assert find_command(words[1:])[1].module == "geoloc.stages.index_imagery"


def test_ray_cluster_file_is_what_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config | {"idle_timeout": 3}))


def test_container_file_has_no_finding() -> None:
    subprocess.run([BIN / "hadolint", ROOT / "deploy" / "Dockerfile"], check=True, capture_output=True)


def test_alerts_use_metrics_that_ray_serve_has() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    wanted = {name for text in expressions for name in re.findall(r"ray_(serve_\w+)", text)}
    source = "".join(
        path.read_text() for path in (Path(ray.__file__).parent / "serve" / "_private").glob("*.py")
    )
    assert len(wanted) == 4
    for name in wanted:
        assert f'"{name.removesuffix("_total")}"' in source, name


@pytest.mark.parametrize("directory", ["k8s/base", "k8s/overlays/gpu"])
def test_a_service_that_others_reach_wants_keys_and_every_pod_has_them(directory: str) -> None:
    (service,) = [one for one in _rendered(directory) if one["kind"] == "RayService"]
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert serve["http_options"]["host"] == "0.0.0.0"
    (application,) = serve["applications"]
    folder = Path(application["args"]["keys"]).parent
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert str(folder) in {mount["mountPath"] for mount in container["volumeMounts"]}
