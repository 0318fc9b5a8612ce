from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from geoloc.synthetic.layouts import map25d
from geoloc.synthetic.layouts.view_images import Export

from .conftest import Files, picture, rendered, rendered_cloud, table, truth

AREAS = (
    "unionsquare5kU",
    "wallstreet5kU",
    "hudsonriver5kU",
    "trainstreetlearnU",
    "cmu5kU",
    "trainstreetlearnU_cmu5kU",
)
RADIUS_M = 6378137.0


def sphere_metres(lat: float, lon: float, origin: tuple[float, float]) -> tuple[float, float]:
    """Spherical transverse Mercator, straight from the formulas of Snyder (1987), equations 8-1 to 8-4."""
    phi, lam, phi0 = np.radians(lat), np.radians(lon - origin[1]), np.radians(origin[0])
    b = np.cos(phi) * np.sin(lam)
    return RADIUS_M * np.arctanh(b), RADIUS_M * (np.arctan2(np.tan(phi), np.cos(lam)) - phi0)


def test_the_csv_files_are_row_by_row_and_have_no_header(map_plan: Export) -> None:
    counts = dict(zip(AREAS, (30, 12, 12, 60, 12, 72), strict=True))
    seen: dict[str, set[str]] = {}
    for area, count in counts.items():
        places, metres, tiles = (
            table(map_plan.annotations[f"csv/{area}{e}.csv"]) for e in ("", "_xy", "_set")
        )
        assert (len(places), len(metres), len(tiles)) == (count,) * 3
        for place, metre, tile in zip(places, metres, tiles, strict=True):
            assert re.fullmatch(r"[\w-]{22}", place[0])
            assert [place[0], *place[3:]] == [metre[0], *metre[3:]]
            assert tile[0] == place[4] in ("manhattan", "pittsburgh")
            assert re.fullmatch(r"\d+\.0", place[3])
        seen[area] = {place[0] for place in places}
    assert seen[AREAS[5]] == seen["trainstreetlearnU"] | seen["cmu5kU"]
    for one, other in itertools.combinations(AREAS[:5], 2):
        assert not seen[one] & seen[other]
    tiles = [tuple(row) for area in AREAS[:5] for row in table(map_plan.annotations[f"csv/{area}_set.csv"])]
    assert len(set(tiles)) == len(tiles) == 126


def test_rows_have_the_form_of_the_published_ones(map_plan: Export, shared_data: Path) -> None:
    for ending in ("", "_xy", "_set"):
        real = (shared_data / "map25d" / f"hudsonriver5kU{ending}.csv").read_text()
        mine = map_plan.annotations[f"csv/hudsonriver5kU{ending}.csv"].decode()
        forms = [
            [
                "number" if re.fullmatch(r"-?\d+\.\d+", cell) else cell
                for cell in text.split("\n")[0].split(",")[1:]
            ]
            for text in (real, mine)
        ]
        if ending == "_set":
            assert re.fullmatch(r"manhattan,\d+", mine.split("\n")[0])
        else:
            assert forms[0] == forms[1]
        assert real.endswith("\n") == mine.endswith("\n")


def test_local_metres_are_the_spherical_projection_with_y_negated(map_plan: Export) -> None:
    origins = map_plan.details["origins"]
    for area in AREAS[:5]:
        rows = zip(
            *(table(map_plan.annotations[f"csv/{area}{ending}.csv"]) for ending in ("", "_xy")), strict=True
        )
        for (_, lat, lon, _, city), (_, x, y, _, _) in rows:
            east, north = sphere_metres(float(lat), float(lon), origins[city])
            assert (float(x), -float(y)) == pytest.approx((east, north), abs=1e-6)


def test_the_formula_is_that_of_the_published_rows(shared_data: Path) -> None:
    for ending in ("hudsonriver5kU", "wallstreet5kU"):
        places = table((shared_data / "map25d" / f"{ending}.csv").read_bytes())[:50]
        metres = table((shared_data / "map25d" / f"{ending}_xy.csv").read_bytes())[:50]
        for place, metre in zip(places, metres, strict=True):
            east, north = sphere_metres(float(place[1]), float(place[2]), map25d._ORIGINS["manhattan"])
            assert (float(metre[1]), -float(metre[2])) == pytest.approx((east, north), abs=1e-6)


def test_areas_of_a_city_stand_apart(map_plan: Export) -> None:
    places = {}
    for area, city in itertools.product(AREAS[:5], ("manhattan", "pittsburgh")):
        rows = table(map_plan.annotations[f"csv/{area}_xy.csv"])
        places[area, city] = np.array([(float(row[1]), float(row[2])) for row in rows if row[4] == city])
    for (one, a), (other, b) in itertools.combinations(places.items(), 2):
        if one[1] == other[1] and len(a) and len(b):
            assert np.linalg.norm(a[:, None] - b[None], axis=-1).min() > 2 * 130 + 2 * 76


def test_graphs_and_routes_are_walks_between_neighbours(map_plan: Export) -> None:
    for area in AREAS[:5]:
        graph = {
            row[0]: set(row[2].split(";")) for row in table(map_plan.annotations[f"graphs/{area}.csv"])[1:]
        }
        place = {r[0]: (float(r[1]), float(r[2])) for r in table(map_plan.annotations[f"csv/{area}_xy.csv"])}
        heading = {r[0]: float(r[3]) for r in table(map_plan.annotations[f"csv/{area}.csv"])}
        assert set(graph) == set(place)
        for name, beside in graph.items():
            assert all(name in graph[other] for other in beside)
            assert all(np.hypot(*np.subtract(place[name], place[other])) < 17 for other in beside)
        assert {r[0]: float(r[1]) for r in table(map_plan.annotations[f"graphs/{area}.csv"])[1:]} == heading
        routes: dict[str, list[str]] = {}
        for number, step, name in table(map_plan.annotations[f"routes/{area}.csv"])[1:]:
            assert int(step) == len(routes.setdefault(number, []))
            routes[number].append(name)
        assert len(routes) >= 10
        for route in routes.values():
            assert len(route) > 1
            assert len(set(route)) == len(route)
            assert all(b in graph[a] for a, b in itertools.pairwise(route))


@pytest.fixture(scope="module")
def cloud(map_plan: Export) -> Files:
    return rendered_cloud(map_plan, 1)


def test_the_cloud_and_its_classes_belong_together(cloud: Files) -> None:
    points = np.load(io.BytesIO(cloud["pittsburgh/pittsburghU.npy"]), allow_pickle=False)
    classes = np.array(cloud["pittsburgh/pittsburghU.csv"].split(), int)
    assert points.shape == (len(classes), 3)
    assert points.dtype == np.float32
    assert 0 <= classes.min() <= classes.max() <= 24
    height = points[:, 1]
    assert np.median(height[classes == 13]) == pytest.approx(
        0, abs=0.1
    )  # residential roads lie on the ground
    assert np.median(height[classes == 4]) > 2  # buildings rise above it
    assert not any(path.endswith(".pickle") for path in cloud)


def test_index_arrays_point_to_the_points_near_the_panorama(map_plan: Export, cloud: Files) -> None:
    points = np.load(io.BytesIO(cloud["pittsburgh/pittsburghU.npy"]))
    for name, x, y, _, _ in table(map_plan.annotations["csv/cmu5kU_xy.csv"])[:8]:
        rows = np.load(io.BytesIO(cloud[f"cmu5kU_idx/{name}.npy"]), allow_pickle=False)
        assert (rows.dtype, rows.ndim) == (np.int64, 1)
        assert (np.diff(rows) > 0).all()
        away = np.maximum(np.abs(points[:, 0] - float(x)), np.abs(points[:, 2] - float(y)))
        assert set(np.nonzero(away < 113.99)[0]) <= set(rows.tolist()) <= set(np.nonzero(away < 114.01)[0])
        area = 228.0**2
        assert 0.1 * area < len(rows) < 0.4 * area
        quadrant = np.unique(
            (points[rows, 0] > float(x)) * 2 + (points[rows, 2] > float(y)), return_counts=True
        )[1]
        assert quadrant.min() > 0.12 * len(rows)


def test_pictures_lie_where_the_lists_say(map_plan: Export) -> None:
    paths = {p.path for p in map_plan.pictures}
    wanted = set()
    for area in AREAS[:5]:
        rows = zip(*(table(map_plan.annotations[f"csv/{area}{e}.csv"]) for e in ("", "_set")), strict=True)
        for place, (city, number) in rows:
            wanted |= {f"jpegs_{city}_2019/{place[0]}.jpg", f"tiles_{city}_2019/z18/{int(number):05d}.png"}
    assert wanted == paths
    assert map_plan.details["pickle"] == "never written"
    assert not any(path.endswith("pickle") for path in map_plan.annotations)


def test_tile_and_panorama_show_the_listed_place(map_plan: Export) -> None:
    place, (city, number) = (table(map_plan.annotations[f"csv/cmu5kU{e}.csv"])[0] for e in ("", "_set"))
    photo, tile = f"jpegs_{city}_2019/{place[0]}.jpg", f"tiles_{city}_2019/z18/{int(number):05d}.png"
    rows = truth(map_plan)
    for path in (photo, tile):
        assert float(rows[path]["lat"]) == pytest.approx(float(place[1]), abs=2e-9)
        assert float(rows[path]["lon"]) == pytest.approx(float(place[2]), abs=2e-9)
    assert float(rows[photo]["heading_deg"]) == pytest.approx(float(place[3]) % 360, abs=1e-3)
    assert float(rows[tile]["side_m"]) == 152
    files = rendered(map_plan, lambda path: path in (photo, tile))
    assert picture(files[photo]).shape == (32, 64, 3)
    assert picture(files[tile]).shape == (32, 32, 4)
    assert (map25d.TILE_PX, map25d.PANORAMA_HEIGHT_PX) == (256, 832)
