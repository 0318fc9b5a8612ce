"""The map of a report: what it holds, and that a browser draws it from a file, with nothing from elsewhere."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.warp import transform

from geoloc.demo.pictures import ground_picture
from geoloc.evaluation.report.html import page
from geoloc.evaluation.report.position_map import GroundPicture, MapPositions, position_map

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def positions(**changes: Any) -> MapPositions:
    """Three photos: located well, not located, of unknown place; two tiles, one of unknown place."""
    fields: dict[str, Any] = {
        "true_lat": np.array([-35.28, -35.281, np.nan]),
        "true_lon": np.array([149.13, 149.131, np.nan]),
        "lat": np.array([-35.2801, np.nan, 1.0]),
        "lon": np.array([149.1301, np.nan, 1.0]),
        "error_m": np.array([14.26, np.nan, np.nan]),
        "gallery_lat": np.array([-35.28, np.nan]),
        "gallery_lon": np.array([149.13, np.nan]),
        "names": ["a", "</script><b>", "c"],
    }
    return MapPositions(**fields | changes)


def facts(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="map-facts">(.*?)</script>', text)
    document: dict[str, Any] = json.loads(found)
    return document


def test_photos_have_their_place_their_error_and_where_they_were_located() -> None:
    found = facts(position_map(positions()))
    assert found["photos"] == [
        {"at": [-35.28, 149.13], "to": [-35.2801, 149.1301], "error_m": 14.3, "name": "a"},
        {"at": [-35.281, 149.131], "to": None, "error_m": None, "name": "</script><b>"},
    ]
    assert found["gallery"] == [[-35.28, 149.13]]
    assert found["picture"] is None


def test_no_photo_with_a_place_no_map() -> None:
    nowhere = np.full(3, np.nan)
    assert position_map(positions(true_lat=nowhere, true_lon=nowhere)) == ""


def test_large_evaluations_are_thinned_evenly() -> None:
    many = np.linspace(-1.0, 1.0, 30_001)
    text = position_map(MapPositions(many, many, many, many, np.zeros(30_001), many, many))
    found = facts(text)
    assert len(found["photos"]) == 5_000
    assert len(found["gallery"]) == 10_000
    for places in ([one["at"] for one in found["photos"]], found["gallery"]):
        assert (places[0], places[-1]) == ([-1.0, -1.0], [1.0, 1.0])
        steps = np.diff(np.array(places)[:, 0])
        assert 0 < steps.max() < 1.5 * steps.mean()  # three or four rows


def sheet(path: Path, west_m: float, colour: tuple[int, int, int]) -> None:
    """A sheet of one colour, 400 m wide and high, in a projection that is turned against web mercator."""
    pixels = np.ones((3, 200, 200), np.uint8) * np.array(colour, np.uint8)[:, None, None]
    profile = {
        "driver": "GTiff",
        "height": 200,
        "width": 200,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32655",
    }
    with rasterio.open(path, "w", transform=from_origin(west_m, 6_095_000, 2, 2), **profile) as target:
        target.write(pixels)


def test_sheets_lie_where_they_belong(tmp_path: Path) -> None:
    sheet(tmp_path / "a.tif", 690_000, (200, 30, 30))
    sheet(tmp_path / "b.tif", 690_400, (30, 30, 200))
    picture = ground_picture(str(tmp_path))
    with Image.open(io.BytesIO(picture.data)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    height, width = pixels.shape[:2]
    for east_m, colour in ((690_200, 0), (690_600, 2)):  # middles of the sheets
        (lon,), (lat,) = transform("EPSG:32655", "EPSG:4326", [east_m], [6_094_800])
        column = int((lon - picture.west) / (picture.east - picture.west) * width)
        row = int(
            (picture.north - lat) / (picture.north - picture.south) * height
        )  # mercator is straight here
        assert int(np.argmax(pixels[row, column, :3])) == colour
        assert pixels[row, column, 3] == 255
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).any()  # the turned sheets leave corners free


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine to show the report in")
def test_a_browser_draws_it_from_a_file(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    sink = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 120, 40)).save(sink, "WEBP")
    ground = GroundPicture(sink.getvalue(), "image/webp", -35.285, 149.125, -35.275, 149.135)
    report = tmp_path / "report.html"
    report.write_text(page("a report", [position_map(positions(), ground)]))
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page()
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto(report.as_uri())
        shown.wait_for_selector("#map img.leaflet-image-layer")
        drawn = shown.evaluate(
            "document.querySelector('#map canvas').getContext('2d').getImageData(0, 0, 400, 400).data.some(Boolean)"
        )
        browser.close()
    assert drawn
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
