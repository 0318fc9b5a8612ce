"""Compiled code finds a place that is private."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geoloc.core.numba_cache import VARIABLE, find_place

READ_ONLY = Path("/nowhere")  # root may write in any directory that exists


def test_a_writable_package_or_home_needs_nothing(tmp_path: Path) -> None:
    for package, home in ((tmp_path, READ_ONLY), (READ_ONLY, tmp_path)):
        environment: dict[str, str] = {}
        find_place(environment, package, home)
        assert environment == {}


def test_a_place_that_was_named_is_kept() -> None:
    environment = {VARIABLE: "/elsewhere"}
    find_place(environment, READ_ONLY, READ_ONLY)
    assert environment == {VARIABLE: "/elsewhere"}


def test_read_only_places_give_way_to_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environments: list[dict[str, str]] = [{}, {}]
    for environment in environments:
        find_place(environment, READ_ONLY, READ_ONLY)
    place = Path(environments[0][VARIABLE])
    assert place.stat().st_mode & 0o777 == 0o700
    assert environments[0] == environments[1]


def test_a_directory_that_others_may_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"geoloc-compiled-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    environment: dict[str, str] = {}
    find_place(environment, READ_ONLY, READ_ONLY)
    assert Path(environment[VARIABLE]) != planted
    assert Path(environment[VARIABLE]).stat().st_mode & 0o777 == 0o700


def test_it_is_found_before_numba_is_loaded() -> None:
    code = (
        "import sys, geoloc; print('numba' in sys.modules); import geoloc.index.search.kernels.dot_products"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
