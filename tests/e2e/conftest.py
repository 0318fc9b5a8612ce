"""A tiny city and everything that is made of it, once for the session."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geoloc import cli
from tests.conftest import made_here

RECIPE = str(Path(__file__).with_name("tiny.yaml"))
SIZES = {
    "train-photos": 32,
    "validation-photos": 20,
    "test-photos": 16,
    "distractors": 16,
    "anywhere-photos": 8,
}
Geoloc = Callable[..., Any]


def demo_words(output: str, **changes: int) -> list[str]:
    """The command line of a tiny demo, with other sizes where `changes` names them."""
    sizes = SIZES | {name.replace("_", "-"): value for name, value in changes.items()}
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
        *(word for name, value in sizes.items() for word in (f"--{name}", str(value))),
    ]


@dataclass(frozen=True)
class FirstRun:
    """A demo without its service: what it printed, its page, and when its weights were written."""

    text: str
    page: str
    weights_ns: int


@pytest.fixture(scope="session")
def geoloc(ray_local: None) -> Geoloc:
    """Run the command line in this process (and its Ray); gives the printed JSON, fails unless it ends well."""
    return lambda *words: json.loads(printed(*words))


def printed(*words: str) -> str:
    """Standard output of a command that ends well."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(list(words)) == 0
    return out.getvalue()


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the demo of this session lies."""
    return str(tmp_path_factory.mktemp("demo") / "out")


@pytest.fixture(scope="session")
def first_run(ray_local: None, demo_folder: str) -> FirstRun:
    """A tiny demo up to its evaluations, as jobs/demo.py runs it.

    Ray trains, builds the indexes, compares and serves. Parts of tables are made in this process: workers make them in
    tests/stages/test_pipeline.py and, slow, in tests/cluster/test_jobs.py.
    """
    with made_here():
        text = printed(*demo_words(demo_folder), "--no-serve")
    page = Path(demo_folder, "report.html").read_text(encoding="utf-8")
    return FirstRun(text, page, weights_path(demo_folder).stat().st_mtime_ns)


def weights_path(demo_folder: str) -> Path:
    """The weights of the demo's model."""
    return Path(demo_folder, "model", "model.safetensors")


@pytest.fixture(scope="session")
def demo(geoloc: Geoloc, first_run: FirstRun, demo_folder: str) -> Any:
    """The same demo again, with its service: its figures, and its lines of progress as `progress`."""
    progress = io.StringIO()
    with contextlib.redirect_stderr(progress):
        figures = geoloc(*demo_words(demo_folder), "--json")
    return figures | {"progress": progress.getvalue()}
