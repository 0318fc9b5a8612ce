"""The page in a real browser: a photo is chosen, an area drawn, an answer shown; accessibility; nothing from elsewhere.

It needs Chromium on this machine (Debian: `apt-get install chromium`). Screenshots go to `GEOLOC_SCREENSHOTS`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from small_index import SmallIndex, encoded

from geoloc.localization.fix import Fix, Match
from geoloc.localization.routes.filter import FilterState
from geoloc.localization.routes.route_answer import RouteFix, RoutePosition
from geoloc.serving.answer import Answer, Pin, PreparedPhoto, Query, RouteQuery, RouteReply
from geoloc.serving.api import create_api
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.imagery import TileImagery
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine to show the page in"),
]


class PageBackend(FakeBackend):
    """Locates photos of known heading at the third tile of a small index, and no others."""

    def __init__(self, small: SmallIndex) -> None:
        super().__init__()
        self.small = small
        self.routes: list[RouteQuery] = []

    async def locate(self, one: PreparedPhoto, pin: Pin, query: Query) -> Answer:
        self.queries.append(query)
        small = self.small
        matches = tuple(
            Match(
                tile_id=small.tile_ids[number],
                lat=float(small.lat[number]),
                lon=float(small.lon[number]),
                distance_bits=number,
                similarity=0.9 - number / 100,
                in_cluster=number == 3,
            )
            for number in (3, 10, 20)
        )
        place: dict[str, Any] = {"located": False, "detail": "They look alike.", "confidence": 0.1}
        if one.heading_deg is not None:
            place = {
                **{"located": True, "lat": float(small.lat[3]), "lon": float(small.lon[3])},
                **{"radius_m": 20.0, "confidence": 0.9, "heading_deg": one.heading_deg},
            }
        fix = Fix(**place, snapshot_id=pin.snapshot_id, matches=matches)
        return Answer(fix, pin.model_id, 1, 1, {"encode": 1.0, "search": 1.0})

    async def follow(self, photos: Sequence[PreparedPhoto], pin: Pin, query: RouteQuery) -> RouteReply:
        """A route along the tiles from the first on; its second photo is off the map."""
        before = sum(len(one.steps) for one in self.routes) if query.before is not None else 0
        self.routes = [*self.routes, query] if query.before is not None else [query]
        places = [self._place(before + number) for number in range(len(photos))]
        fix = RouteFix(located=True, positions=tuple(places), calibrated=False, snapshot_id=pin.snapshot_id)
        one = np.ones(1)
        return RouteReply(fix, FilterState(np.zeros(1, np.int64), one, one, 0.0, 0.0), 1, pin.model_id, 1, 1)

    def _place(self, number: int) -> RoutePosition:
        known = number != 1
        lat, lon = float(self.small.lat[number]), float(self.small.lon[number])
        return RoutePosition(
            lat=lat if known else None, lon=lon if known else None, radius_m=8.0 if known else None,
            off_map=0.0 if known else 1.0, path_id=None, path_lat=None, path_lon=None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def backend(small_index: SmallIndex) -> PageBackend:
    return PageBackend(small_index)


@pytest.fixture(scope="module")
def url(small_index: SmallIndex, backend: PageBackend) -> Iterator[str]:
    pool = DecoderPool(1)
    imagery = TileImagery(f"{small_index.ingested}/tiles")
    api = create_api(backend, ServingLimits(decoders=1), pool=pool, imagery=imagery)
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    assert httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)
    pool.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield one
        one.close()


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """A function that opens the page in a window of its own; errors in its scripts fail the test."""
    contexts, errors, hosts = [], [], set()

    def opened(**options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "")
        )
        page.goto(url)
        page.wait_for_selector("#index option", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert {host for host in hosts if host} == {url.split("/")[2]}


@pytest.fixture(scope="module")
def photo(small_index: SmallIndex, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    path.write_bytes(encoded(small_index.panoramas[3]))
    return str(path)


def keep(page: Any, name: str) -> None:
    if folder := os.environ.get("GEOLOC_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # until the map has come to rest
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def serious(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [each["id"] for each in violations if each["impact"] in ("serious", "critical")]


def test_a_photo_is_located_shown_and_remembered(open_page: Any, photo: str) -> None:
    page = open_page(viewport={"width": 1280, "height": 860})
    page.evaluate("document.getElementById('options').open = true")
    page.fill("#heading", "45")
    page.set_input_files("#file", photo)
    page.wait_for_selector("#answer .card.good")
    text = page.inner_text("#answer")
    assert "very likely (90 %)" in text
    assert "45° from north" in text
    assert page.locator("#answer ol.matches li").count() == 3
    page.wait_for_timeout(500)
    widths = "[...document.querySelectorAll('ol.matches img')].map((one) => one.naturalWidth)"
    assert page.evaluate(widths) == [64, 64, 64]
    assert page.locator("#map .pin").count() == 1
    assert page.locator("#history li").count() == 1
    keep(page, "located")
    assert serious(page) == []
    page.reload()
    page.wait_for_selector("#history button")
    page.click("#history button")
    assert "very likely (90 %)" in page.inner_text("#answer")


def test_a_photo_that_is_not_located_says_why(open_page: Any, photo: str) -> None:
    page = open_page(viewport={"width": 1280, "height": 860})
    page.set_input_files("#file", photo)
    page.wait_for_selector("#answer .card.bad")
    assert "They look alike." in page.inner_text("#answer")
    assert page.locator("#map .pin").count() == 0
    keep(page, "not-located")


def test_an_area_is_drawn_on_the_map_and_asked_for(open_page: Any, photo: str, backend: PageBackend) -> None:
    page = open_page(viewport={"width": 1280, "height": 860})
    page.click("#draw")
    box = page.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert page.inner_text("#area-text").startswith("Within ")
    page.set_input_files("#file", photo)
    page.wait_for_selector("#answer .card")
    region = backend.queries[-1].region
    assert region is not None
    assert region.radius_m > 10  # type: ignore[union-attr]
    page.click("#clear")
    assert page.inner_text("#area-text") == "Everywhere."


def test_a_heading_is_drawn_on_the_map_and_asked_for(open_page: Any, photo: str) -> None:
    page = open_page(viewport={"width": 1280, "height": 860})
    page.evaluate("document.getElementById('options').open = true")
    page.click("#draw-heading")
    assert page.get_attribute("#draw-heading", "aria-pressed") == "true"
    box = page.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert page.get_attribute("#draw-heading", "aria-pressed") == "false"
    assert page.input_value("#heading") == "90"
    assert page.inner_text("#area-text") == "Everywhere."
    page.set_input_files("#file", photo)
    page.wait_for_selector("#answer .card.good")
    assert "90° from north" in page.inner_text("#answer")


def test_several_photos_are_a_route_and_others_go_on_with_it(
    open_page: Any, small_index: SmallIndex, backend: PageBackend, tmp_path: Path
) -> None:
    names = [f"{number}.png" for number in (10, 2, 1)]
    for name in names:
        (tmp_path / name).write_bytes(encoded(small_index.panoramas[int(name.split(".")[0])]))
    page = open_page(viewport={"width": 1280, "height": 860})
    page.evaluate("document.getElementById('options').open = true")
    page.fill("#moved", "12")
    page.set_input_files("#file", [str(tmp_path / name) for name in names])
    page.wait_for_selector("#answer .card.good")
    places = page.locator("ol.places li").all_inner_texts()
    assert len(places) == 3
    assert places[0].startswith(f"1. {small_index.lat[0]:.6f}")
    assert places[0].endswith("within 8 m")
    assert places[1] == "2. off the map"
    assert [step.moved_m for step in backend.routes[0].steps] == [None, 12.0, 12.0]
    assert page.locator("#strip img").count() == 3
    assert page.locator("#map .pin").count() == 2
    keep(page, "route")
    assert serious(page) == []
    page.check("#go-on")
    page.set_input_files("#file", str(tmp_path / "10.png"))
    page.wait_for_selector("ol.places li:nth-child(4)")
    assert [len(query.steps) for query in backend.routes] == [3, 1]
    assert [step.moved_m for step in backend.routes[1].steps] == [12.0]
    page.uncheck("#go-on")
    page.fill("#heading", "45")
    page.set_input_files("#file", str(tmp_path / "10.png"))
    page.wait_for_selector("#answer ol.matches")
    assert page.locator("#strip img").count() == 0
    assert page.locator("#route").is_hidden()


def test_a_finger_draws_an_area(open_page: Any) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.click("#draw")
    touch = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", 150), ("touchMove", 190), ("touchMove", 230), ("touchEnd", None)):
        points = [] if x is None else [{"x": x, "y": 200}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.inner_text("#area-text").startswith("Within ")


def test_a_refusal_is_a_sentence(open_page: Any, tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(b"just text")
    page = open_page()
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#answer [role=alert]")
    assert "send one of JPEG" in page.inner_text("#answer")


def test_it_fits_a_phone_in_the_dark_and_is_used_by_keyboard(open_page: Any, photo: str) -> None:
    page = open_page(
        viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True, device_scale_factor=2
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.set_input_files("#file", photo)
    page.wait_for_selector("#answer .card")
    page.evaluate("document.getElementById('answer').scrollIntoView()")
    keep(page, "phone")
    assert serious(page) == []
    page.focus("#locate")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer .card")
    page.focus("#around")
    page.keyboard.press("Space")
    assert page.inner_text("#area-text").startswith("Within 500 m")
