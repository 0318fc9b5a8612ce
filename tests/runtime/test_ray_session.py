from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from geoloc.core.errors import ConfigError, ServiceUnavailable
from geoloc.runtime import ray_session


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return monkeypatch


def test_a_dashboard_address_is_no_cluster(unstarted: pytest.MonkeyPatch) -> None:
    unstarted.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ConfigError, match="is a dashboard for `ray job submit`; unset it"):
        ray_session.ensure_ray()


def test_a_slow_start_is_tried_again_and_then_explained(unstarted: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def slow(**options: object) -> None:
        calls.append(options["address"])
        raise Exception("The current node timed out during startup.")

    unstarted.setattr(ray, "init", slow)
    unstarted.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ServiceUnavailable, match="did not start on this machine after 3 attempts"):
        ray_session.ensure_ray()
    assert calls == ["local"] * 3


@pytest.mark.usefixtures("ray_local")
def test_a_running_ray_is_kept() -> None:
    address = ray.get_runtime_context().gcs_address
    ray_session.ensure_ray(num_cpus=1)
    assert ray.get_runtime_context().gcs_address == address
    assert ray_session.cpu_count() == 2
    assert ray_session.gpu_count() == 0
    assert address.startswith(ray_session.LOOPBACK)
    assert logging.getLogger("ray.data").level == logging.ERROR


def test_a_long_folder_for_temporary_files_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 90)
    folder.mkdir()
    script = "from geoloc.runtime.ray_session import ensure_ray; ensure_ray(1)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")
    }
    child = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigError: The folder for temporary files" in child.stderr
    assert "Set RAY_TMPDIR to a short path" in child.stderr
