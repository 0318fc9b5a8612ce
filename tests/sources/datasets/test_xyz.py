from __future__ import annotations

import math
from pathlib import Path

import morecantile
import pytest

from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.sources.datasets import registry
from geoloc.sources.datasets.loading import load_tiles
from geoloc.sources.datasets.rows import Plan
from tests.sources.datasets.miniatures import make_xyz, picture


def plan(root: Path, split: str | None = None) -> Plan:
    dataset = registry.find("xyz")
    return dataset.plan(dataset.request(str(root), split))


@pytest.mark.parametrize("px", [64, 256])
def test_centres_and_scales_are_those_of_the_tile_matrix(tmp_path: Path, px: int) -> None:
    made = plan(make_xyz(tmp_path, px=px))
    assert (len(made.tiles), len(made.queries)) == (6, 0)
    matrices = morecantile.tms.get("WebMercatorQuad")
    table, _ = load_tiles(made.tiles)
    for row in table.to_pylist():
        zoom, x, y = map(int, row["tile_id"].split("/"))
        bounds = matrices.xy_bounds(x, y, zoom)
        lon, lat = matrices.lnglat((bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2)
        assert (row["lat"], row["lon"]) == pytest.approx((lat, lon), abs=1e-9)
        assert matrices.tile(row["lon"], row["lat"], zoom) == (x, y, zoom)
        assert row["metres_per_pixel"] * px == pytest.approx(
            (bounds.right - bounds.left) * math.cos(math.radians(lat)), rel=1e-9
        )


def test_zooms_have_to_be_named_and_odd_files_are_counted(tmp_path: Path) -> None:
    make_xyz(tmp_path)
    (tmp_path / "18" / "readme.txt").write_text("tiles")
    picture(tmp_path / "18" / "300000" / "5.png", 64, 64, 1)
    made = plan(tmp_path)
    assert "1 files in" in made.findings[0]
    assert [(row.key, row.reason) for row in made.refused_tiles] == [("18/300000/5", "bad_name")]
    make_xyz(tmp_path, 17)
    with pytest.raises(ConfigError, match=r"holds the zooms 17, 18; name one with split"):
        plan(tmp_path)
    assert {tile.tile_id[:2] for tile in plan(tmp_path, "17").tiles + plan(tmp_path, "17").tiles} <= {"17"}
    with pytest.raises(ConfigError, match=r"split is 'deep'; for xyz it is a zoom level from 0 to 30"):
        plan(tmp_path, "deep")
    with pytest.raises(ArtifactError, match=r"every tile of zoom 12 is missing"):
        plan(tmp_path, "12")
    with pytest.raises(ArtifactError, match=r"every zoom level is missing"):
        plan(tmp_path / "nowhere")
