"""Pictures of the page for README.md, taken in Chromium from a service on the demo's index.

`python docs/page_screenshots.py DEMO FOLDER` serves `DEMO/index` (what `make demo` writes) with the gallery's tiles
behind the pins, and posts held-out photos through the page. page_located.jpg: the first photo that is located with a
confidence of 90 % or more; page_not_located.jpg: the first that is not located because places look alike;
page_phone.jpg: another located one, on a phone in the dark.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from geoloc import Client
from geoloc.client.schema import LocalizeAnswer
from geoloc.core import part_table
from geoloc.localization.fix import AMBIGUOUS
from geoloc.serving.server import ServeConfig, start

_DESKTOP = {"viewport": {"width": 1280, "height": 860}}
_PHONE = {
    "viewport": {"width": 390, "height": 780},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}
_SURE = 0.9
_MOST = 200
_REST_MS = 4000  # until the map's pictures have come


def main() -> None:
    """Write the three pictures into a folder."""
    demo, folder = Path(sys.argv[1]), Path(sys.argv[2])
    photos = part_table.read(
        str(demo / "tables/test/queries"), kind="queries", columns=("image", "heading_deg")
    )
    rows = iter(photos.to_pylist()[:_MOST])
    service = start(
        ServeConfig(index=str(demo / "index"), imagery=str(demo / "tables/gallery/tiles"), port=0)
    )
    try:
        with Client(service.url) as client, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            shown = answers(client, rows)
            located = next(row for row, fix in shown if fix.located and (fix.confidence or 0) >= _SURE)
            alike = next(row for row, fix in shown if fix.reason == AMBIGUOUS)
            other = next(row for row, fix in shown if fix.located and (fix.confidence or 0) >= _SURE)
            for name, row, options in (
                ("page_located", located, _DESKTOP),
                ("page_not_located", alike, _DESKTOP),
                ("page_phone", other, _PHONE),
            ):
                take(browser, service.url, row, options, folder / f"{name}.jpg")
            browser.close()
    finally:
        service.stop()


def answers(
    client: Client, rows: Iterator[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], LocalizeAnswer]]:
    """Photos with the service's answers, one after the other."""
    for row in rows:
        yield row, client.localize(row["image"], heading_deg=row["heading_deg"])


def take(browser: Browser, url: str, row: dict[str, Any], options: dict[str, Any], path: Path) -> None:
    """The page with a photo and its answer, as JPEG."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.wait_for_selector("#index option", state="attached")
    page.locator("#options summary").click()
    page.fill("#heading", f"{row['heading_deg']:.0f}")
    page.locator("#options summary").click()
    with tempfile.NamedTemporaryFile(suffix=".jpg") as photo:
        photo.write(row["image"])
        photo.flush()
        page.set_input_files("#file", photo.name)
        page.wait_for_selector("#answer .card")
    page.locator("#answer").scroll_into_view_if_needed()
    page.wait_for_timeout(_REST_MS)
    page.screenshot(path=str(path), type="jpeg", quality=72)


if __name__ == "__main__":
    main()
