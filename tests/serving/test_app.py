"""Arguments of the Serve application and its configuration file."""

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
    assert names <= {"Ingress", "Encoder", "Search"}
    assert build_app(application.args) is not None
