"""`ray job submit -- python jobs/<stage>.py` on a real head, for every stage."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from geoloc.core import part_table
from tests.stages.ingest_inputs import make_photos, make_sheets

from .conftest import Head

RECIPE = "tests/e2e/tiny.yaml"
CITY = ("--train-photos", "40", "--validation-photos", "8", "--test-photos", "16", "--distractors", "20")


def _done(head: Head, *words: str) -> str:
    result = head.submit(*words)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout[-4000:]}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.mark.timeout(900)
def test_a_stage_runs_as_a_job(head: Head, tmp_path: Path) -> None:
    """Ingest, since the city would compile its renderer in the copy of the checkout that every head makes."""
    words = ("--imagery", make_sheets(tmp_path / "sheets"), "--photos", make_photos(tmp_path, 20))
    sizes = ("--tile-m", "32", "--tile-px", "64", "--rows-per-part", "40")
    out = _done(head, "jobs/ingest.py", *words, *sizes, "--output", f"{tmp_path}/tables")
    assert part_table.read_manifest(f"{tmp_path}/tables/queries").rows == 20
    assert re.search(r"^queries: 20 rows in 1 parts", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_stage_runs_as_a_job(head: Head, tmp_path: Path, free_port: Any) -> None:
    root = str(tmp_path)
    _done(head, "jobs/city.py", "--output", f"{root}/city", *CITY, "--anywhere-photos", "4")
    for split, side in (("train", "70"), ("test", "50")):
        city = f"{root}/city/{split}"
        _done(
            head, "jobs/ingest.py", "--imagery", f"{city}/imagery", "--centres", f"{city}/centres.csv",
            "--photos", f"{city}/photos.csv", "--output", f"{root}/{split}", "--tile-m", str(int(side) * 0.8),
            "--tile-px", side,
        )  # fmt: skip
    _done(head, "jobs/train.py", "--train", f"{root}/train", "--recipe", RECIPE, "--output", f"{root}/model")
    _done(
        head,
        "jobs/encode.py",
        "--tiles",
        f"{root}/test",
        "--model",
        f"{root}/model",
        "--output",
        f"{root}/codes",
    )
    index = ("--model", f"{root}/model", "--output", f"{root}/index")
    _done(head, "jobs/index.py", "--codes", f"{root}/codes", *index)
    _done(
        head, "jobs/evaluate.py", "--index", f"{root}/index", "--queries", f"{root}/test",
        "--output", f"{root}/evaluation",
    )  # fmt: skip
    _done(
        head, "jobs/localize.py", "--index", f"{root}/index", "--photos", f"{root}/city/test/photos.csv",
        "--output", f"{root}/fixes",
    )  # fmt: skip
    assert part_table.read_manifest(f"{root}/fixes/fixes").rows == 16
    _serve(head, f"{root}/index", free_port())


def _serve(head: Head, index: str, port: int) -> None:
    """The service as a job: it answers, and ends when the job is stopped."""
    words = ("python", "jobs/serve.py", "--index", index, "--port", str(port))
    job = head.ray(
        "job", "submit", "--no-wait", "--submission-id", "serving", "--working-dir", ".", "--", *words
    )
    assert job.returncode == 0, job.stderr
    deadline = time.monotonic() + 120
    status = 0
    while status != 200 and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            status = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code
        time.sleep(0.5)
    assert status == 200, head.ray("job", "logs", "serving").stdout[-3000:]
    assert head.ray("job", "stop", "serving").returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_runs_all_stages_as_one_job(head: Head, tmp_path: Path) -> None:
    words = ("--recipe", RECIPE, "--shards", "2", *CITY, "--anywhere-photos", "4")
    out = _done(head, "jobs/demo.py", "--output", f"{tmp_path}/all", *words)
    assert "16 photos against 44 tiles" in out
    assert (tmp_path / "all" / "report.html").exists()


@pytest.mark.slow
def test_a_mistake_fails_the_job_with_its_sentence(head: Head, tmp_path: Path) -> None:
    result = head.submit(
        "jobs/encode.py", "--tiles", "/nowhere", "--model", "/nowhere", "--output", f"{tmp_path}/c"
    )
    assert result.returncode != 0
    assert "error: There is no table at '/nowhere'" in result.stdout + result.stderr


@pytest.mark.slow
def test_geoloc_submit_is_the_same_in_fewer_words(head: Head, tmp_path: Path) -> None:
    import subprocess

    from .conftest import BIN, ROOT

    # The head's shell reads the words, which Ray quotes for it: a command in one of them is never run.
    none = f"{tmp_path}/$(touch {tmp_path}/ran) `touch {tmp_path}/ran`; none"
    words = [BIN / "geoloc", "submit", "--address", head.address, "index", "inspect", "--index", none]
    done = subprocess.run(words, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "There is no finished index at" in done.stdout + done.stderr
    assert "$(touch" in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()
