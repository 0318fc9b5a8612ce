"""Sheets from strangers: what names other files or addresses is refused, and a failing store is no broken sheet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoloc.core import storage
from geoloc.core.errors import InputError, StoreUnavailable
from geoloc.sources.sheet_pixels import read_window
from geoloc.sources.sheets import find_sheets
from tests.conftest import S3Server
from tests.failing_proxy import Faults, failing_proxy

from .sheet_files import write_sheet

PLACE = Affine(0.5, 0.0, 500_000.0, 0.0, -0.5, 6_500_000.0)
PICTURE = np.random.default_rng(0).integers(0, 256, (3, 700, 900), np.uint8)


@pytest.fixture
def listener() -> Iterator[list[str]]:
    """The paths that anybody asks a web server on this machine for; its port is the first entry."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked.append(str(server.server_port))
    yield asked
    server.shutdown()


def _vrt(path: Path, source: str) -> None:
    path.write_text(
        f"""<VRTDataset rasterXSize="900" rasterYSize="700"><SRS>EPSG:32635</SRS>
        <GeoTransform>500000, 0.5, 0, 6500000, 0, -0.5</GeoTransform>
        <VRTRasterBand dataType="Byte" band="1"><ColorInterp>Gray</ColorInterp><SimpleSource>
        <SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>
        </SimpleSource></VRTRasterBand></VRTDataset>"""
    )


def _sheet(folder: Path, **profile: object) -> str:
    return write_sheet(folder / "sheet.tif", PICTURE, PLACE, "EPSG:32635", **profile)


def test_a_virtual_file_in_the_clothes_of_a_sheet_is_refused(tmp_path: Path, listener: list[str]) -> None:
    secret = write_sheet(tmp_path / "secret.tiff.hidden", PICTURE, PLACE, "EPSG:32635")
    for number, source in enumerate((secret, f"/vsicurl/http://127.0.0.1:{listener[0]}/x.tif")):
        path = tmp_path / f"sheet{number}.tif"
        _vrt(path, source)
        with rasterio.open(path) as opened:  # what GDAL does with it, left to itself
            assert opened.driver == "VRT"
        with pytest.raises(InputError, match=r"cannot be read as a GeoTIFF.*check the file"):
            find_sheets([str(path)])
    assert listener[1:] == []


@pytest.mark.parametrize("ending", [".msk", ".ovr"])
def test_a_side_file_that_is_no_tiff_is_refused(ending: str, tmp_path: Path, listener: list[str]) -> None:
    sheet = _sheet(tmp_path)
    _vrt(Path(sheet + ending), f"/vsicurl/http://127.0.0.1:{listener[0]}/x.tif")
    with pytest.raises(InputError, match=r"is no TIFF, as masks and overviews") as caught:
        find_sheets([sheet])
    assert caught.value.reason == "foreign_file"
    assert listener[1:] == []


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_an_overview_that_is_any_file_is_refused(place: str, tmp_path: Path, listener: list[str]) -> None:
    sheet = _sheet(tmp_path)
    address = f"/vsicurl/http://127.0.0.1:{listener[0]}/x.tif"
    if place == "inside":
        with rasterio.open(sheet, "r+") as opened:
            opened.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=address)
    else:
        Path(f"{sheet}.aux.xml").write_text(
            f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{address}</MDI></Metadata></PAMDataset>'
        )
    with pytest.raises(InputError, match="names another file as its overviews"):
        find_sheets([sheet])
    assert listener[1:] == []


def test_a_sheet_in_a_store_has_the_pixels_of_its_copy_on_disk(tmp_path: Path, s3_uri: str) -> None:
    there = storage.join(s3_uri, "a folder", "sheet.tif")
    storage.copy_file(_sheet(tmp_path, tiled=True, blockxsize=256, blockysize=256, compress="deflate"), there)
    [sheet] = find_sheets([there])
    pixels, mask = read_window(sheet, 100, 50, 640, 400)
    assert np.array_equal(pixels, PICTURE[:, 50:450, 100:740].transpose(1, 2, 0))
    assert mask is None


def test_a_store_that_fails_while_a_sheet_is_read_costs_time_only(
    tmp_path: Path, s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.copy_file(_sheet(tmp_path), f"{s3_uri}/sheet.tif")
    monkeypatch.setenv("GEOLOC_STORE_TIMEOUT_S", "1")
    with failing_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults = Faults(script=deque(["stall", *["error", "reset", "half"] * 4]))
        [sheet] = find_sheets([f"{s3_uri}/sheet.tif"])
        proxy.faults = Faults(script=deque(["half", "error", "reset", "half"] * 3), methods=("GET",))
        pixels, _ = read_window(sheet, 0, 0, 900, 700)
        assert np.array_equal(pixels, PICTURE.transpose(1, 2, 0))
        assert sum(proxy.failed.values()) > 12
        monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", "1")
        for fault in ("error", "half"):
            proxy.faults = Faults(shares={fault: 1.0}, methods=("GET",))
            with pytest.raises(
                StoreUnavailable, match="run it again"
            ):  # no InputError: nothing is quarantined
                read_window(sheet, 0, 0, 900, 700)
