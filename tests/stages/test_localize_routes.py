"""The stage `localize --route`: ordered photos to positions along a path."""

import json

import numpy as np
import pytest
from small_index import encoded

from geoloc.core import geodesy, part_table
from geoloc.core.errors import InputError
from geoloc.localization.localizer import Localizer
from geoloc.localization.query_photos import photo
from geoloc.localization.routes.motion import Step
from geoloc.stages.localize import LocalizeConfig, LocalizeInputs, run
from geoloc.stages.localize_routes import list_routes

CONFIG = LocalizeConfig(view="panorama", heading_deg=0.0, route=True)


def chain(small_index, first, count):
    """Tiles of a walk that goes to the nearest one that it has not visited."""
    walk = [first]
    while len(walk) < count:
        lat, lon = small_index.lat[walk[-1]], small_index.lon[walk[-1]]
        apart = geodesy.distance_m(small_index.lat, small_index.lon, lat, lon)
        apart[walk] = np.inf
        walk.append(int(apart.argmin()))
    return walk


def write_walk(folder, small_index, walk):
    """Pictures of a walk, and the rows of a list about them."""
    rows = []
    for step, number in enumerate(walk, start=1):
        (folder / f"{number:03d}.png").write_bytes(encoded(small_index.panoramas[number]))
        before = walk[max(step - 2, 0)]
        moved_m = geodesy.distance_m(
            *(
                small_index.lat[before],
                small_index.lon[before],
                small_index.lat[number],
                small_index.lon[number],
            )
        )
        rows.append(f"{number:03d}.png,{walk[0]},{step},{float(moved_m):.3f}")
    return rows


@pytest.mark.usefixtures("parts_here")
def test_routes_of_a_list_become_paths_as_the_library_gives_them(ray_local, small_index, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    walks = [chain(small_index, 0, 5), chain(small_index, 30, 4)]
    rows = [row for walk in walks for row in write_walk(photos, small_index, walk)]
    (photos / "gone.png").write_bytes(b"nothing")
    rows.append("gone.png,30,2.5,0")
    (photos / "photos.csv").write_text("\n".join(["photo,route_id,step,moved_m", *reversed(rows)]))
    output = tmp_path / "out"
    inputs = LocalizeInputs(index=small_index.index, photos=str(photos))
    result = run(CONFIG, inputs, str(output))
    assert result.photos == 9
    assert sum(result.quarantined.values()) == 1
    found = part_table.read(str(output / "routes"), kind="route_fixes").to_pylist()
    assert [(row["route_id"], row["step"]) for row in found] == [
        *(("0", float(step)) for step in range(1, 6)), *(("30", float(step)) for step in range(1, 5)),
    ]  # fmt: skip
    localizer = Localizer.open(small_index.index, device="cpu")
    steps = [Step(moved_m=float(row.rsplit(",", 1)[1])) for row in rows[:5]]
    alone = localizer.localize_route(
        [photo(small_index.panoramas[number], view="panorama", heading_deg=0.0) for number in walks[0]], steps
    )
    for row, position in zip(found, alone.positions, strict=False):
        assert row["path_id"] == position.path_id
        assert (row["lat"], row["lon"]) == pytest.approx((position.lat, position.lon), abs=1e-9)
        assert row["radius_m"] == pytest.approx(position.radius_m)
    features = json.loads((output / "routes.geojson").read_text())["features"]
    lines = [one for one in features if "photos" in one["properties"]]
    assert [one["properties"]["route_id"] for one in lines] == ["0", "30"]
    assert lines[0]["geometry"]["type"] == "LineString"
    assert lines[0]["properties"]["path"] == [small_index.tile_ids[number] for number in walks[0]]
    assert lines[0]["geometry"]["coordinates"] == [[row["path_lon"], row["path_lat"]] for row in found[:5]]
    assert run(CONFIG, inputs, str(output)).reused


def test_files_without_a_list_are_one_route_by_name_and_bad_steps_are_refused(small_index, tmp_path):
    write_walk(tmp_path, small_index, [3, 1, 2])
    (route,) = list_routes(str(tmp_path))
    assert [entry.query_id for entry in route] == ["001.png", "002.png", "003.png"]
    assert [entry.way.step for entry in route] == [1, 2, 3]
    uri = tmp_path / "list.csv"
    uri.write_text("photo,step\n001.png,1\n002.png,1\n")
    with pytest.raises(InputError, match="Two photos of one route have the step 1; number each photo once"):
        list_routes(str(uri))
    uri.write_text("photo,route_id\n001.png,1\n")
    with pytest.raises(InputError, match="lacks the column 'step'"):
        list_routes(str(uri))
    uri.write_text("photo,step\n001.png,\n002.png,2\n")
    assert [entry.problem and entry.problem[0] for route in list_routes(str(uri)) for entry in route] == [
        "bad_value", None,
    ]  # fmt: skip
