"""Arguments of the Serve application and its configuration file."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from geoloc.core.errors import ConfigError
from geoloc.serving.app import ServeArgs, build_app

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "serve.yaml"


def test_unknown_and_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="indexx"):
        build_app({"index": "a", "indexx": "b"})
    with pytest.raises(ConfigError, match="min_confidence"):
        build_app({"index": "a", "min_confidence": 2})


def test_the_configuration_file_fits_serve_and_our_arguments():
    document = yaml.safe_load(CONFIG.read_text())
    deploy = ServeDeploySchema.model_validate(document)
    (application,) = deploy.applications
    assert application.import_path == "geoloc.serving.app:build_app"
    arguments = ServeArgs.model_validate(application.args)
    assert arguments.index
    names = {deployment.name for deployment in application.deployments}
    assert names <= {"Ingress", "Encoder", "Search", "Catalog"}
    assert build_app(application.args) is not None


def test_replicas_are_a_number_or_a_range_that_follows_the_load():
    fixed = ServeArgs(index="a", search_replicas=2, max_search_replicas=2)
    assert fixed.replicas("Search") == {"num_replicas": 2}
    assert fixed.replicas("Encoder") == {"num_replicas": 1}
    scaled = ServeArgs(index="a", max_encoder_replicas=4, target_ongoing_requests=6).replicas("Encoder")
    config = scaled["autoscaling_config"]
    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == (1, 4, 6)
    assert (config.upscale_delay_s, config.downscale_delay_s) == (
        30,
        600,
    )  # those of Serve, unless asked for others
    quick = ServeArgs(index="a", max_search_replicas=2, scale_up_after_s=2, scale_down_after_s=9)
    config = quick.replicas("Search")["autoscaling_config"]
    assert (config.upscale_delay_s, config.downscale_delay_s) == (2, 9)
    with pytest.raises(ConfigError, match=r"max_search_replicas \(1\) is less than search_replicas \(3\)"):
        build_app({"index": "a", "search_replicas": 3, "max_search_replicas": 1})


def test_more_indices_have_plain_names():
    served = ServeArgs(index="a", indices={"old-town": "b"}).served()
    assert list(served) == ["default", "old-town"]
    for name in ("default", "a b", "../x", ""):
        with pytest.raises(ConfigError, match="cannot name an index"):
            build_app({"index": "a", "indices": {name: "b"}})


def test_only_an_encoder_imports_torch():
    """What every replica imports; torch would cost each of them seconds and half a gigabyte."""
    code = "import sys, geoloc.serving.app; print([m for m in ('torch', 'timm') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
