"""Pictures of the page for README.md and docs/serving.md, taken in Chromium from a service on a real index.

`python docs/page_screenshots.py --index INDEX --imagery TILES --photos QUERIES FOLDER` serves an index with a table of
tiles behind the pins, and posts photos of a table of queries through the page:

* page_located.jpg: the photo that is located with the highest confidence;
* page_ambiguous.jpg: of those not located because places look alike, the one whose second place weighs most;
* page_not_located.jpg: the first photo in thick fog, which shows nothing to match;
* page_phone.jpg: the photo with the next highest confidence, on a phone in the dark;
* page_route.jpg, with `--city DEMO/city`: panoramas every 12 m along streets of the test district of `make demo`.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from geoloc import Client
from geoloc.client.schema import LocalizeAnswer
from geoloc.core import part_table
from geoloc.core.images import decode_image
from geoloc.localization.fix import AMBIGUOUS
from geoloc.serving.server import ServeConfig, start
from geoloc.synthetic.stages.city import CityConfig
from geoloc.synthetic.world.districts import Photo, plan_districts
from geoloc.synthetic.world.export import render_photo
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.route_photos import plan_routes
from geoloc.synthetic.world.style import style_named

_DESKTOP = {"viewport": {"width": 1280, "height": 860}}
_PHONE = {
    "viewport": {"width": 390, "height": 780},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}
_MOST = 200
_FOG = 0.02  # of the contrast is left
_REST_MS = 4000  # until the map's pictures have come
_MOST_BYTES = 120_000
_ROUTE_PHOTOS = 12


def main() -> None:
    """Write the pictures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--index", required=True, help="path of a calibrated index")
    parser.add_argument("--imagery", required=True, help="table of its tiles, with their pictures")
    parser.add_argument("--photos", required=True, help="table of queries")
    parser.add_argument("--city", type=Path, help="the city of make demo, where a route is to be shown")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    service = start(ServeConfig(index=given.index, imagery=given.imagery, port=0))
    try:
        with Client(service.url) as client, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, row, options in chosen(client, given.photos):
                page = opened(browser, service.url, options)
                show_photo(page, row)
                save(page, given.folder / f"{name}.jpg")
            if given.city:
                page = opened(browser, service.url, _DESKTOP)
                show_route(page, given.city)
                save(page, given.folder / "page_route.jpg")
            browser.close()
    finally:
        service.stop()


def chosen(client: Client, photos: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name of the picture, row of the photo, options of the browser) of each picture."""
    table = part_table.read(photos, kind="queries", columns=("image", "heading_deg"))
    rows = table.to_pylist()[:_MOST]
    shown = list(answers(client, rows))
    sure = sorted((one for one in shown if one[1].located), key=lambda one: -(one[1].confidence or 0.0))
    unsure = [one for one in shown if one[1].reason == AMBIGUOUS and len(one[1].hypotheses) > 1]
    torn, _ = max(unsure, key=lambda one: one[1].hypotheses[1].weight)
    return [
        ("page_located", sure[0][0], _DESKTOP),
        ("page_ambiguous", torn, _DESKTOP),
        ("page_not_located", rows[0] | {"image": in_fog(rows[0]["image"])}, _DESKTOP),
        ("page_phone", sure[1][0], _PHONE),
    ]


def answers(client: Client, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], LocalizeAnswer]]:
    """Photos with the service's answers, one after the other."""
    for row in rows:
        yield row, client.localize(row["image"], heading_deg=row["heading_deg"])


def in_fog(data: bytes) -> bytes:
    """The same photo as JPEG, with hardly any contrast left."""
    pixels = decode_image(data).astype(np.float32)
    pale = (200 + _FOG * (pixels - 128)).round().astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pale).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def opened(browser: Browser, url: str, options: dict[str, Any]) -> Page:
    """The page in a window of its own, once it knows its indices."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.wait_for_selector("#index option", state="attached")
    return page


def show_photo(page: Page, row: dict[str, Any]) -> None:
    """Ask the page about a photo of known heading."""
    fill(page, heading=f"{row['heading_deg']:.0f}")
    with tempfile.NamedTemporaryFile(suffix=".jpg") as photo:
        photo.write(row["image"])
        photo.flush()
        page.set_input_files("#file", photo.name)
        page.wait_for_selector("#answer .card")


def show_route(page: Page, city_folder: Path) -> None:
    """Ask the page about panoramas along streets of the city, north in their middle, an odometer known."""
    record = json.loads((city_folder / "city.json").read_text())
    config = CityConfig(**record["config"])
    city, settings = City(config.seed, style_named(config.style)), config.districts()
    (test,) = (one for one in plan_districts(city, settings) if one.name == "test")
    route = config.model_copy(update={"routes": 1, "route_photos": _ROUTE_PHOTOS}).route_settings()
    fill(page, heading="0", moved=f"{route.spacing_m:g}")
    with tempfile.TemporaryDirectory() as folder:
        for photo in plan_routes(city, test, route, settings.margin_m).photos:
            north = Photo(photo.name, photo.folder, photo.x, photo.y, 0.0, photo.key)
            (Path(folder) / f"{photo.step}.jpg").write_bytes(render_photo(city, north, config.camera()))
        page.set_input_files("#file", [str(path) for path in Path(folder).iterdir()])
        page.wait_for_selector("#answer .places", timeout=60_000)


def fill(page: Page, **fields: str) -> None:
    """Fill fields of what is known about the photo."""
    page.locator("#options summary").click()
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.locator("#options summary").click()


def save(page: Page, path: Path) -> None:
    """The page with its answer in view as JPEG, in the best quality that keeps it small."""
    page.locator("#answer").scroll_into_view_if_needed()
    page.wait_for_timeout(_REST_MS)
    for quality in (80, 70, 60, 50, 40):
        data = page.screenshot(type="jpeg", quality=quality)
        if len(data) <= _MOST_BYTES:
            break
    path.write_bytes(data)


if __name__ == "__main__":
    main()
