"""The same stages on `s3://`, against a real S3 server; credentials and endpoint come from the environment."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from geoloc import Localizer, cli
from geoloc.core import part_table, storage
from tests.conftest import S3Server, made_here

from .conftest import SIZES, Geoloc

pytestmark = pytest.mark.timeout(900)  # the first test waits for the whole way


@pytest.fixture(scope="module")
def root(demo: Any, demo_folder: str, s3_server: S3Server) -> str:
    """A place on S3 with the imagery and photos of a district."""
    uri = f"s3://{s3_server.bucket}/{secrets.token_hex(8)}"
    for file in storage.list_files(f"{demo_folder}/city/test"):
        storage.copy_file(file.uri, uri + file.uri.removeprefix(demo_folder))
    return uri


def _ingest(geoloc: Geoloc, root: str) -> Any:
    """With the tile size of the demo."""
    city = f"{root}/city/test"
    return geoloc(
        *("ingest", "--imagery", f"{city}/imagery/*.tif", "--centres", f"{city}/centres.csv"),
        *("--photos", f"{city}/photos.csv", "--output", f"{root}/tables/test"),
        *("--tile-m", "40", "--tile-px", "50", "--json"),
    )


@pytest.fixture(scope="module")
def tables(geoloc: Geoloc, root: str) -> str:
    """Ingested on S3."""
    with made_here():
        output: str = _ingest(geoloc, root)["output"]
    return output


@pytest.fixture(scope="module")
def model(root: str, demo_folder: str) -> str:
    """The model of the demo, copied to S3."""
    for file in storage.list_files(f"{demo_folder}/model"):
        storage.copy_file(file.uri, root + file.uri.removeprefix(demo_folder))
    return f"{root}/model"


@pytest.fixture(scope="module")
def index(geoloc: Geoloc, root: str, tables: str, model: str) -> Any:
    """Encoded and indexed on S3 by workers of Ray."""
    words = ("--tiles", tables, "--model", model, "--output", f"{root}/codes", "--json")
    codes = geoloc("encode", *words)["output"]
    words = ("--codes", codes, "--model", model, "--output", f"{root}/index", "--shards", "2", "--json")
    return geoloc("index", "build", *words)


def test_tables_on_s3_have_the_bytes_of_those_on_disk(tables: str, demo_folder: str) -> None:
    for kind in ("tiles", "queries", "pairs"):
        there = part_table.read_manifest(f"{tables}/{kind}", kind=kind)
        here = part_table.read_manifest(f"{demo_folder}/tables/test/{kind}", kind=kind)
        assert [part.sha256 for part in there.parts] == [part.sha256 for part in here.parts]


def test_codes_on_s3_have_the_bytes_of_those_on_disk(root: str, index: Any, demo_folder: str) -> None:
    there = part_table.read_manifest(f"{root}/codes", kind="codes")
    here = part_table.read_manifest(f"{demo_folder}/codes/test", kind="codes")
    assert [part.sha256 for part in there.parts] == [part.sha256 for part in here.parts]


@pytest.mark.usefixtures("parts_here")
def test_an_index_on_s3_evaluates(geoloc: Geoloc, root: str, index: Any, tables: str) -> None:
    words = ("--index", index["index_uri"], "--queries", tables, "--truth-radius-m", "15")
    result = geoloc("evaluate", *words, "--output", f"{root}/evaluation", "--json")
    assert (result["queries"], result["gallery"]) == (SIZES["test-photos"], SIZES["test-photos"])
    assert storage.read_text(f"{root}/evaluation/report.html").startswith("<!doctype html>")
    again = geoloc("evaluate", *words, "--output", f"{root}/evaluation", "--json")
    assert again["reused"]
    assert again["table"] == result["table"]


@pytest.mark.usefixtures("parts_here")
def test_an_index_on_s3_localizes_a_folder_of_photos(geoloc: Geoloc, root: str, index: Any) -> None:
    words = ("--index", index["index_uri"], "--photos", f"{root}/city/test/photos")
    result = geoloc("localize", *words, "--output", f"{root}/fixes", "--json")
    assert result["photos"] == SIZES["test-photos"]
    features = json.loads(storage.read_text(f"{root}/fixes/fixes.geojson"))["features"]
    assert len(features) == SIZES["test-photos"]


def test_an_index_on_s3_opens_as_a_library(
    index: Any, demo_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOLOC_CACHE", str(tmp_path / "cache"))
    photo = next(Path(demo_folder, "city", "test", "photos").glob("*.jpg"))
    fix = Localizer.open(index["index_uri"]).localize(photo.read_bytes(), heading_deg=0.0, fov_deg=360.0)
    assert fix.snapshot_id == index["snapshot_id"]


def test_every_stage_on_s3_is_reused_when_run_again(
    geoloc: Geoloc, root: str, index: Any, tables: str, model: str
) -> None:
    words = (
        "--codes",
        f"{root}/codes",
        "--model",
        model,
        "--output",
        f"{root}/index",
        "--shards",
        "2",
        "--json",
    )
    again = geoloc("index", "build", *words)
    assert again == index | {"reused": True}
    assert _ingest(geoloc, root)["reused"]


def test_a_bucket_that_is_not_there_is_one_sentence(
    ray_local: None, s3_server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["index", "inspect", "s3://no-such-bucket-here/index"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "s3://no-such-bucket-here/index" in err
    assert err.count("\n") == 1
