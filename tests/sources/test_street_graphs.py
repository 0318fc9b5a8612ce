from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import InputError
from geoloc.sources.street_graphs import graph_of_area, graph_of_roads, read_graph, read_streets
from tests.sources.datasets.miniatures import make_map25d

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "map25d"


def test_a_table_of_positions_is_linked_along_its_streets(tmp_path: Path) -> None:
    rows = [f"{48 + 0.0001 * k},2.0,{10 * k}" for k in range(4)]
    (tmp_path / "places.csv").write_text("\n".join(["lat,lon,heading_deg", *rows]))
    found = read_graph(str(tmp_path / "places.csv"))
    assert found.ids == ("1", "2", "3", "4")
    assert found.graph.links.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert found.graph.yaw_deg.tolist() == [0, 10, 20, 30]


def test_named_neighbours_hold_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    uri = tmp_path / "places.csv"
    uri.write_text("id,lat,lon,neighbours\na,48,2,c\nb,48,2.0001,\nc,48,2.01,a\n")
    assert read_graph(str(uri)).graph.links.tolist() == [[0, 2]]
    uri.write_text("id,lat,lon,neighbours\na,48,2,z\n")
    with pytest.raises(InputError, match="'a' has the neighbour 'z', which is no place of the graph"):
        read_graph(str(uri))
    uri.write_text("id,lat,lon\na,48,2\na,48,2.1\n")
    with pytest.raises(InputError, match="has the id 'a' twice"):
        read_graph(str(uri))
    uri.write_text("id,lat,lon\na,148,2\n")
    with pytest.raises(InputError, match="row 1: lat is 148"):
        read_graph(str(uri))


def test_an_area_of_the_data_set_has_the_graph_that_its_files_name(tmp_path: Path) -> None:
    root = make_map25d(tmp_path)
    assert graph_of_area(str(root), "wallstreet5kU").graph.links.shape == (0, 2)  # 72 m apart
    assert len(graph_of_area(str(root), "wallstreet5kU", longest_link_m=80).graph.links) == 4
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "wallstreet5kU.csv").write_text(
        "panoid,yaw_deg,neighbours\npano_0-AbC,0,pano_4-AbC\npano_4-AbC,0,pano_0-AbC\n"
    )
    assert graph_of_area(str(root), "wallstreet5kU").graph.links.tolist() == [[0, 4]]


@pytest.mark.parametrize("area", ["wallstreet5kU", "hudsonriver5kU"])
def test_the_real_areas_hang_together_and_their_cars_drive_along_the_links(area: str, tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("the real metadata are not there")
    graph = graph_of_area(str(SHARED), area).graph
    assert len(graph) == 5000
    assert len(graph.largest_part()) > 4_800
    degree = np.bincount(graph.links.ravel(), minlength=len(graph))
    assert (degree == 2).mean() > 0.7
    a, b = graph.links.T
    along = np.degrees(np.arctan2(graph.x[b] - graph.x[a], graph.y[b] - graph.y[a]))
    off = (graph.yaw_deg[a] - along) % 180
    assert (np.minimum(off, 180 - off) < 30).mean() > 0.75


ROADS = """<?xml version="1.0" encoding="UTF-8"?>
<osm version="0.6">
<node id="1" lat="48.0" lon="11.0"/><node id="2" lat="48.0002" lon="11.0"/><node id="3" lat="48.0002" lon="11.0001"/>
<node id="4" lat="48.0004" lon="11.0"/>
<way id="10"><nd ref="1"/><nd ref="2"/><nd ref="4"/><tag k="highway" v="residential"/></way>
<way id="11"><nd ref="3"/><nd ref="2"/><tag k="highway" v="service"/></way>
<way id="12"><nd ref="1"/><nd ref="3"/><tag k="building" v="yes"/></way>
<way id="13"><nd ref="3"/><nd ref="4"/><tag k="highway" v="proposed"/></way>
</osm>
"""


def test_roads_of_an_extract_meet_where_they_share_a_node(tmp_path: Path) -> None:
    pytest.importorskip("osmium")
    (tmp_path / "roads.osm").write_text(ROADS)
    found = graph_of_roads(str(tmp_path / "roads.osm"))
    place = {name: number for number, name in enumerate(found.ids)}
    degree = np.bincount(found.graph.links.ravel(), minlength=len(found))
    assert degree[place["2"]] == 3, "the side street and two directions of the main road"
    assert [int(degree[place[end]]) for end in ("1", "3", "4")] == [1, 1, 1]
    a, b = found.graph.links.T
    length = np.hypot(found.graph.x[a] - found.graph.x[b], found.graph.y[a] - found.graph.y[b])
    assert length.max() <= 10.001
    assert length.sum() == pytest.approx(2 * 22.24 + 7.44, abs=0.1)  # metres along the roads
    assert len(found.graph.largest_part()) == len(found)


def test_streets_are_read_by_what_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("lat,lon\n48,2\n48.0001,2\n")
    assert len(read_streets(str(tmp_path / "places.csv"))) == 2
    line = '{"type": "Feature", "properties": {"highway": "path"}, "geometry": {"type": "LineString", "coordinates": '
    (tmp_path / "roads.geojson").write_text(
        '{"type": "FeatureCollection", "features": [' + line + "[[2, 48], [2, 48.00005]]}}]}"
    )
    assert len(read_streets(str(tmp_path / "roads.geojson"))) == 2
    root = make_map25d(tmp_path)
    area = next(path for path in Path(root).rglob("wallstreet5kU.csv") if "graphs" not in path.parts)
    assert read_streets(str(area)).fingerprint() == graph_of_area(str(root), "wallstreet5kU").fingerprint()
    none = tmp_path / "none.geojson"
    none.write_text((tmp_path / "roads.geojson").read_text().replace("highway", "railway"))
    with pytest.raises(InputError, match="has no road"):
        read_streets(str(none))
