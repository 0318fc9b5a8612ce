from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Verdicts and copies of a test stay with the test."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("GEOLOC_CACHE", str(directory))
    return directory


@pytest.fixture
def index_uri(tmp_path: Path) -> str:
    return str(tmp_path / "index")
