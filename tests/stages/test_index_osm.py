"""An OpenStreetMap extract to an index that answers photos, and the tables on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc import Localizer
from geoloc.core import part_table, storage
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.images import decode_image
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.stages import index_osm, ingest_osm
from geoloc.stages.index_osm import OsmIndexConfig, OsmIndexInputs
from geoloc.stages.ingest_osm import OsmTilesConfig, OsmTilesInputs

pytestmark = pytest.mark.usefixtures("ray_local")

NORTH_M, EAST_M = 111_195, 74_404  # metres in a degree at 48 N
LAT, LON = 48 + 256 / NORTH_M, 11 + 256 / EAST_M  # the crossing: the middle of the first block


def write_extract(path: Path) -> str:
    """Two streets that cross, a house and a lawn beside them."""
    corners = [(-90, 20), (-60, 20), (-60, 60), (-90, 60), (10, -60), (70, -60), (70, -10), (10, -10)]
    points = [(-400, 0), (400, 0), (0, -300), (0, 300), (0, 0), *corners]
    nodes = [
        f'<node id="{number}" lat="{LAT + north / NORTH_M:.8f}" lon="{LON + east / EAST_M:.8f}"/>'
        for number, (east, north) in enumerate(points, start=1)
    ]
    ways = [
        ((1, 5, 2), {"highway": "residential"}),
        ((3, 5, 4), {"highway": "primary", "width": "14"}),
        ((6, 7, 8, 9, 6), {"building": "yes", "height": "15"}),
        ((10, 11, 12, 13, 10), {"landuse": "grass"}),
    ]
    text = "".join(
        f'<way id="{number}">'
        + "".join(f'<nd ref="{ref}"/>' for ref in refs)
        + "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags.items())
        + "</way>"
        for number, (refs, tags) in enumerate(ways, start=1)
    )
    path.write_text(f'<osm version="0.6">{"".join(nodes)}{text}</osm>')
    return str(path)


def untrained(uri: str) -> str:
    torch.manual_seed(0)
    data = Recipe.load("map25d-small").model_dump(mode="json", exclude_none=True)
    data["model"] |= {
        "tile_px": 32,
        "panorama_px": [16, 64],
        "view": {"kind": "polar", "height_px": 16, "width_px": 64},
        "backbone": {"kind": "plain_cnn", "widths": [8, 16], "strides": [4, 2]},
        "aggregation": {"kind": "column_attention", "columns": 8, "channels": 8},
        "hash": {"bits": 64, "prefixes": [64]},
    }
    recipe = Recipe.model_validate(data)
    save_model(GeoLocalizer(recipe.model).eval(), recipe, uri)
    return uri


@pytest.mark.usefixtures("parts_here")
def test_an_extract_becomes_an_index_that_answers(tmp_path: Path) -> None:
    extract, model = write_extract(tmp_path / "area.osm"), untrained(str(tmp_path / "model"))
    index = str(tmp_path / "index")
    config = OsmIndexConfig(stride_m=20.0, shards=1)
    index_osm.run(config, OsmIndexInputs(osm=extract, model=model), index)
    work = storage.join(f"{index}-tables", "tiles")
    tiles = part_table.read(work, kind="tiles")
    # 1,400 m of streets every 20 m, one place at the crossing.
    assert 66 <= tiles.num_rows <= 74
    assert len(set(tiles["tile_id"].to_pylist())) == tiles.num_rows
    east = (np.array(tiles["lon"].to_pylist()) - LON) * EAST_M
    north = (np.array(tiles["lat"].to_pylist()) - LAT) * NORTH_M
    assert np.minimum(np.abs(east), np.abs(north)).max() < 0.5
    for row in (0, tiles.num_rows - 1):
        points = np.array(tiles["points"][row].as_py()).reshape(-1, 4)
        assert np.abs(points[:, :2]).max() <= 114
        house = points[points[:, 3] == 4]
        at_east, at_north = house[:, 0] + east[row], house[:, 1] + north[row]
        assert ((at_east > -91) & (at_east < -59) & (at_north > 19) & (at_north < 61)).all()
        assert decode_image(tiles["image"][row].as_py()).shape == (32, 32, 3)
    assert not storage.exists(f"{index}-tables/osm-blocks")
    photo = np.random.default_rng(0).integers(0, 255, (32, 64, 3)).astype(np.uint8)
    answer = Localizer.open(index).localize(photo, view="panorama", heading_deg=0.0)
    assert answer.matches
    assert answer.matches[0].tile_id in set(tiles["tile_id"].to_pylist())


def test_the_table_of_a_second_run_is_the_first(tmp_path: Path) -> None:
    inputs, output = OsmTilesInputs(osm=write_extract(tmp_path / "area.osm")), str(tmp_path / "out")
    config = OsmTilesConfig(tile_px=32, stride_m=50.0)
    first = ingest_osm.run(config, inputs, output)
    assert (first.reused, ingest_osm.run(config, inputs, output).reused) == (False, True)
    assert first.blocks == 5  # the block of the crossing and its four neighbours
    with pytest.raises(ConfigError, match="no OSM extract"):
        ingest_osm.run(config, OsmTilesInputs(osm=str(tmp_path / "absent.osm")), output)
    (tmp_path / "empty.osm").write_text('<osm version="0.6"></osm>')
    with pytest.raises(InputError, match="no street"):
        ingest_osm.run(config, OsmTilesInputs(osm=str(tmp_path / "empty.osm")), str(tmp_path / "other"))
