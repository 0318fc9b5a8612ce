"""Extracts, classes, points and map tiles of OpenStreetMap, and the city's own cloud from its own map."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree

from geoloc.core.errors import InputError
from geoloc.core.geodesy import LatLon, SphericalTransverseMercator
from geoloc.core.semantics import SemanticClass as Kind
from geoloc.sources.osm.blocks import BLOCK_M, read_block, street_places, write_blocks
from geoloc.sources.osm.classes import area_class, building_height_m, line_class, number
from geoloc.sources.osm.extract import Area, Node, Way, read_areas, read_features, read_ways
from geoloc.sources.osm.picture import draw_tile
from geoloc.sources.osm.surfaces import MapFeatures, Surface, Tree, map_features, sample_surfaces
from geoloc.synthetic.layouts.cities import STYLES, city_seed
from geoloc.synthetic.layouts.osm import osm_xml
from geoloc.synthetic.layouts.placement import sphere_at
from geoloc.synthetic.layouts.render import make_city
from geoloc.synthetic.layouts.view_images import CitySource
from geoloc.synthetic.world.cloud import point_cloud

SMALL = """<?xml version="1.0" encoding="UTF-8"?>
<osm version="0.6">
<node id="1" lat="48.0" lon="11.0"/><node id="2" lat="48.001" lon="11.0"/><node id="3" lat="48.001" lon="11.001"/>
<node id="4" lat="48.0" lon="11.001"/><node id="5" lat="48.0002" lon="11.0002"/>
<node id="6" lat="48.0004" lon="11.0002"/>
<node id="7" lat="48.0004" lon="11.0004"/><node id="9" lat="48.0007" lon="11.0007"><tag k="natural" v="tree"/></node>
<way id="10"><nd ref="1"/><nd ref="2"/><nd ref="3"/><tag k="highway" v="residential"/></way>
<way id="11"><nd ref="3"/><nd ref="8"/><nd ref="4"/><nd ref="1"/><tag k="highway" v="service"/></way>
<way id="12"><nd ref="1"/><nd ref="2"/><nd ref="3"/><nd ref="4"/><nd ref="1"/></way>
<way id="13"><nd ref="5"/><nd ref="6"/><nd ref="7"/><nd ref="5"/></way>
<way id="14"><nd ref="5"/><nd ref="6"/><nd ref="7"/><nd ref="5"/><tag k="building" v="yes"/>
<tag k="height" v="9 m"/></way>
<relation id="20"><member type="way" ref="12" role="outer"/><member type="way" ref="13" role="inner"/>
<tag k="type" v="multipolygon"/><tag k="landuse" v="grass"/></relation>
</osm>
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.osm"
    path.write_text(SMALL)
    return str(path)


def test_an_extract_is_ways_areas_and_nodes(small: str) -> None:
    features = list(read_features(small))
    ways = {way.osm_id: way for way in features if isinstance(way, Way) and "highway" in way.tags}
    assert ways[10].node_id.tolist() == [1, 2, 3]
    assert ways[10].lat.tolist() == [48.0, 48.001, 48.001]
    assert ways[11].node_id.tolist() == [4, 1]  # node 8 is not in the extract: 3 alone is no line
    areas = {area.tags.get("landuse") or "building": area for area in features if isinstance(area, Area)}
    assert areas["grass"].osm_id == 20
    assert len(areas["grass"].shape.interiors) == 1
    assert areas["grass"].shape.area == pytest.approx(1e-6 - 2e-8)
    assert [node.osm_id for node in features if isinstance(node, Node)] == [9]


def test_keys_and_bounds_choose_features(small: str) -> None:
    assert {way.osm_id for way in read_ways(small, keys=frozenset({"highway"}))} == {10, 11}
    assert {area.osm_id for area in read_areas(small, keys=frozenset({"building"}))} == {14}
    assert list(read_ways(small, bounds=(40.0, 10.0, 41.0, 12.0))) == []
    north = read_ways(small, keys=frozenset({"highway"}), bounds=(48.0005, 10.9, 48.01, 11.1))
    assert [way.osm_id for way in north] == [10]


def test_all_formats_give_the_same_lines_and_share_nodes(small: str, tmp_path: Path) -> None:
    lines = [[(11.0, 48.0), (11.0, 48.001)], [(11.0, 48.001), (11.001, 48.001)]]
    tags = {"highway": "residential", "width": 6.5}
    items = [
        {"type": "Feature", "properties": tags, "geometry": {"type": "LineString", "coordinates": line}}
        for line in lines
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    frame = geopandas.GeoDataFrame(
        {"type": ["segment"] * 2, "class": ["residential"] * 2, "width": [6.5] * 2},
        geometry=[shapely.LineString(line) for line in lines],
        crs=4326,
    )
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.geojson", "a.parquet"):
        ways = list(read_ways(str(tmp_path / name), keys=frozenset({"highway"})))
        assert [np.column_stack([way.lon, way.lat]).tolist() for way in ways] == [
            [list(place) for place in line] for line in lines
        ]
        assert ways[0].node_id[1] == ways[1].node_id[0]
        assert len({*ways[0].node_id.tolist(), *ways[1].node_id.tolist()}) == 3
        assert line_class(ways[0].tags) == (Kind.ROADS_RESIDENTIAL, 6.5)


def test_what_is_no_extract_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.osm").write_text("<osm version='0.6'><node id=")
    (tmp_path / "broken.geojson").write_text("{}")
    for name in ("broken.osm", "broken.geojson", "absent.osm"):
        with pytest.raises(InputError):
            list(read_features(str(tmp_path / name)))


def test_tags_have_their_class_width_and_height() -> None:
    assert line_class({"highway": "primary", "lanes": "4"}) == (Kind.ROADS_PRIMARY, 12.8)
    assert line_class({"highway": "steps"}) == (Kind.PATHS_STEPS, 2.0)
    assert line_class({"railway": "tram"}) == (Kind.RAILWAYS, 3.0)
    assert line_class({"highway": "residential", "tunnel": "yes"}) is None
    assert line_class({"highway": "pedestrian", "area": "yes"}) is None
    assert area_class({"highway": "pedestrian", "area": "yes"}) == Kind.AREAS_PEDESTRIAN
    assert area_class({"natural": "wood"}) == Kind.FOREST
    assert area_class({"building": "no", "leisure": "park"}) == Kind.VEGETATION
    assert area_class({"boundary": "administrative"}) is None
    assert building_height_m({"building:levels": "4"}) == (12.0, 0.0)
    assert building_height_m({"height": "10", "roof:shape": "gabled", "roof:height": "3"}) == (7.0, 3.0)
    assert building_height_m({}) == (6.0, 0.0)
    assert [number(text) for text in ("12,5", "40 ft", "3'", "many", "-1", "inf", None)] == [
        12.5, pytest.approx(12.192), pytest.approx(0.9144), None, None, None, None,
    ]  # fmt: skip


def square(low: float, high: float, kind: Kind, **heights: float) -> Surface:
    return Surface(7, kind, shapely.box(low, low, high, high), **heights)


def test_points_lie_on_what_is_on_top_at_the_stated_density() -> None:
    features = MapFeatures(
        [
            square(0, 200, Kind.VEGETATION),
            square(50, 90, Kind.BUILDINGS, wall_m=12.0, gable_m=4.0),
            square(80, 150, Kind.WATER),
        ],
        [Tree(20.0, 20.0, 10.0, 8.0)],
    )
    points = sample_surfaces(features, (-50.0, -50.0, 250.0, 250.0))
    count = Counter(points[:, 3].astype(int).tolist())
    crown = np.pi * 64
    assert count[Kind.WATER] == pytest.approx(0.1 * (4900 - 100), rel=0.05)
    assert count[Kind.VEGETATION] == pytest.approx(0.1 * (40000 - 1600 - 4800 + crown), rel=0.03)
    assert count[Kind.BUILDINGS] == pytest.approx(0.1 * (1600 + 4 * 40 * 12), rel=0.07)
    house = points[points[:, 3] == Kind.BUILDINGS]
    assert ((house[:, :2] > 49.99) & (house[:, :2] < 90.01)).all()
    walls = (np.abs(house[:, :2] - 70).max(axis=1) > 19.99) & (house[:, 2] < 12)
    assert walls.sum() == pytest.approx(192, rel=0.1)
    assert house[~walls, 2].max() == pytest.approx(16.0, abs=0.5)
    leaves = points[(points[:, 3] == Kind.VEGETATION) & (points[:, 2] > 0)]
    assert (np.hypot(leaves[:, 0] - 20, leaves[:, 1] - 20) <= 8.01).all()
    part = sample_surfaces(features, (40.0, 40.0, 100.0, 100.0))
    inside = ((points[:, :2] >= 40) & (points[:, :2] < 100)).all(axis=1)
    assert {tuple(row) for row in part.tolist()} == {tuple(row) for row in points[inside].tolist()}


def test_walls_that_touch_another_house_are_hidden() -> None:
    alone = MapFeatures([square(0, 20, Kind.BUILDINGS, wall_m=30.0)], [])
    beside = Surface(8, Kind.BUILDINGS, shapely.box(20, 0, 40, 20), wall_m=30.0)
    bounds = (-10.0, -10.0, 50.0, 50.0)

    def on_the_line(features: MapFeatures) -> int:
        points = sample_surfaces(features, bounds)
        return int(((np.abs(points[:, 0] - 20) < 1e-3) & (points[:, 2] < 29.9)).sum())

    assert on_the_line(alone) > 30
    assert on_the_line(MapFeatures([*alone.surfaces, beside], [])) == 0


def test_a_map_tile_shows_classes_where_they_lie() -> None:
    features = MapFeatures([square(-100, 100, Kind.VEGETATION), square(10, 40, Kind.WATER)], [])
    picture = draw_tile(features, 0.0, 0.0, side_m=100.0, size_px=50)
    assert picture.shape == (50, 50, 3)
    assert picture[12, 37].tolist() == [168, 208, 222]  # north-east of the middle
    assert picture[37, 12].tolist() == [205, 235, 198]


def test_blocks_hold_what_reaches_them_and_no_place_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = SphericalTransverseMercator(LatLon(48.0, 11.0))
    features: list[Way | Area | Node] = []
    for row in range(40):
        x, y = np.cumsum(rng.uniform(-200, 200, 6)), np.cumsum(rng.uniform(-200, 200, 6))
        lat, lon = frame.to_degrees(x, y)
        features.append(Way(row, {"highway": "residential"}, np.arange(6), lat, lon))
    west, south = frame.to_degrees(-800.0, -800.0)
    east, north = frame.to_degrees(800.0, 800.0)
    wood = shapely.box(float(south), float(west), float(north), float(east))
    features.append(Area(99, {"natural": "wood"}, wood))
    plan = write_blocks(features, str(tmp_path), 130.0)
    assert (plan.origin.lat, plan.origin.lon) == (48.0, 11.0)
    whole = map_features(features, frame)
    places = []
    for block, files in plan.files.items():
        found, streets = read_block(files)
        low = np.array(block) * BLOCK_M
        bounds = (*(low - 100), *(low + BLOCK_M + 100))
        mine = sample_surfaces(found, bounds)
        assert {tuple(row) for row in mine.tolist()} == {
            tuple(row) for row in sample_surfaces(whole, bounds).tolist()
        }
        places.append(street_places(streets, block, 10.0))
    joined = np.concatenate(places)
    assert len(np.unique(joined, axis=0)) == len(joined)
    drawn = [np.column_stack(frame.to_metres(way.lat, way.lon)) for way in features if isinstance(way, Way)]
    lines = shapely.union_all([shapely.linestrings(each) for each in drawn])
    assert float(shapely.distance(shapely.points(joined), lines).max()) < 1e-6
    assert len(joined) == pytest.approx(shapely.length(lines) / 10, rel=0.2)


def test_the_citys_own_map_gives_the_citys_own_cloud(tmp_path: Path) -> None:
    """Tolerances: 3 % of the number of points; 88 % have the class of the nearest, which lies within 3 m for 95 %."""
    source = CitySource("manhattan", city_seed(7, 40), STYLES["grid"], sphere_at(40.7424436, -73.9816155))
    city = make_city(source, 0)
    path = tmp_path / "city.osm"
    path.write_bytes(osm_xml(city, source.placement, (-20.0, -20.0, 180.0, 180.0)))
    frame = SphericalTransverseMercator(LatLon(40.7424436, -73.9816155))
    bounds = (0.0, 0.0, 160.0, 160.0)
    mine = sample_surfaces(map_features(read_features(str(path)), frame), bounds)
    points, kinds = point_cloud(city, bounds)
    assert len(mine) == pytest.approx(len(points), rel=0.03)
    for ours, theirs, other, known in (
        (mine[:, :3], mine[:, 3], points, kinds),
        (points, kinds, mine[:, :3], mine[:, 3]),
    ):
        apart, nearest = cKDTree(other).query(ours)
        assert float((known[nearest] == theirs).mean()) > 0.88
        assert float(np.percentile(apart, 95)) < 3.0
