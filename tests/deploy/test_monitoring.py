"""Dashboards and alerts ask for metrics that exist, where Prometheus finds them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "geoloc.json").read_text())
_METRIC = re.compile(r"\b(ray_\w+)")


def _rendered() -> list[dict[str, Any]]:
    folder = ROOT / "k8s" / "monitoring"
    return list(yaml.safe_load_all(subprocess.check_output([KUBECTL, "kustomize", folder], text=True)))


def _expressions() -> dict[str, list[str]]:
    return {
        "rules": [rule["expr"] for group in RULES["groups"] for rule in group["rules"]],
        "dashboard": [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]],
    }


def _known_metrics() -> set[str]:
    """Names that Ray's own dashboards ask for, that Serve exports, and that geoloc makes."""
    package = Path(ray.__file__).parent
    panels = "".join(
        path.read_text() for path in (package / "dashboard/modules/metrics/dashboards").glob("*.py")
    )
    known = set(_METRIC.findall(panels))
    serve = "".join(path.read_text() for path in (package / "serve" / "_private").glob("*.py"))
    for name in re.findall(r'"(serve_\w+)"', serve):
        known |= {f"ray_{name}{end}" for end in ("", "_total", "_bucket")}
    for kind, ends in {
        "Gauge": ("",),
        "Counter": ("_total",),
        "Histogram": ("_bucket", "_sum", "_count"),
    }.items():
        known |= {f"ray_{name}{end}" for name in _own_metrics(kind) for end in ends}
    return known


def _own_metrics(kind: str) -> set[str]:
    """Names of our own metrics of a kind, as the code makes them."""
    files = [ROOT / "geoloc" / room / "metrics.py" for room in ("runtime", "serving")]
    return set(re.findall(kind + r'\(\s*"(\w+)"', "".join(path.read_text() for path in files)))


@pytest.mark.parametrize(("where", "least"), [("rules", 6), ("dashboard", 22)])
def test_every_metric_exists(where: str, least: int) -> None:
    wanted = {name for text in _expressions()[where] for name in _METRIC.findall(text)}
    assert len(wanted) >= least
    assert wanted - _known_metrics() == set()


def test_a_metric_that_does_not_exist_is_seen() -> None:
    assert {"ray_geoloc_rows_total", "ray_tasks"} <= _known_metrics()
    assert not {"ray_geoloc_rows", "ray_geoloc_lines_total", "ray_task"} & _known_metrics()


def test_every_metric_of_the_service_is_explained_and_shown() -> None:
    known = {name for name in _known_metrics() if name.startswith("ray_geoloc_")}
    for where in ("docs/operations.md", "deploy/grafana/geoloc.json"):
        text = (ROOT / where).read_text()
        for kind, end in {"Gauge": "", "Counter": "_total", "Histogram": ""}.items():
            wanted = {f"ray_{name}{end}" for name in _own_metrics(kind)}
            assert {name for name in wanted if name not in text} == set(), where
    explained = set(re.findall(r"`(ray_geoloc_\w+)`", (ROOT / "docs/operations.md").read_text()))
    assert {name for name in explained if name not in known and f"{name}_bucket" not in known} == set()


def test_kubernetes_has_the_same_alerts_and_the_dashboard() -> None:
    documents = {document["kind"]: document for document in _rendered()}
    assert documents["PrometheusRule"]["spec"]["groups"] == RULES["groups"]
    assert json.loads(documents["ConfigMap"]["data"]["geoloc.json"]) == DASHBOARD
    assert documents["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}
    for kind, kind_of_node in {"ServiceMonitor": "head", "PodMonitor": "worker"}.items():
        spec = documents[kind]["spec"]
        assert spec["selector"]["matchLabels"] == {"ray.io/node-type": kind_of_node}
        assert spec["namespaceSelector"]["matchNames"] == ["geoloc"]
    assert {document["metadata"]["namespace"] for document in documents.values()} == {"monitoring"}


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in DASHBOARD["panels"])
