"""A tiny city and everything that is made of it, once for the session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geoloc import cli

RECIPE = str(Path(__file__).with_name("tiny.yaml"))
SIZES = {
    "train-photos": 48,
    "validation-photos": 140,
    "test-photos": 24,
    "distractors": 30,
    "anywhere-photos": 8,
}
Geoloc = Callable[..., Any]


def demo_words(output: str) -> list[str]:
    """The command line of a tiny demo."""
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    return [
        "demo",
        "--output",
        output,
        "--recipe",
        RECIPE,
        "--posts",
        "6",
        "--shards",
        "2",
        "--workers",
        "1",
        *sizes,
        "--json",
    ]


@pytest.fixture(scope="session")
def geoloc(ray_local: None) -> Geoloc:
    """Run the command line in this process (and its Ray); gives the printed JSON, fails unless it ends well."""
    import contextlib
    import io

    def run(*words: str) -> Any:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = cli.main(list(words))
        assert status == 0
        return json.loads(out.getvalue())

    return run


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the demo of this session lies."""
    return str(tmp_path_factory.mktemp("demo") / "out")


@pytest.fixture(scope="session")
def demo(geoloc: Geoloc, demo_folder: str) -> Any:
    """The figures of a tiny demo: city, tables, model, codes, indexes, evaluations, service, report."""
    return geoloc(*demo_words(demo_folder))
