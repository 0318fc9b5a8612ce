from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_index import make_model, small_recipe, write_index

from geoloc.core import geodesy
from geoloc.evaluation.ranking.metrics import error_summary
from geoloc.evaluation.report.located_errors import errors_of, locate_group
from geoloc.index.format.shard import TILES_SCHEMA
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.sources.datasets.vigor import offset_m, read_labels
from geoloc.synthetic.layouts import vigor as layout
from geoloc.synthetic.layouts.view_images import truth_csv


def test_errors_are_geodesic_and_unknown_where_a_position_is() -> None:
    lat, lon = np.array([47.0, 47.0, np.nan, 47.0]), np.array([8.0, 8.0, 8.0, 8.0])
    errors = errors_of(lat, lon, np.array([47.0, 47.0, 47.0, np.nan]), np.array([8.0, 8.001, 8.0, 8.0]))
    assert errors[0] == 0
    assert errors[1] == pytest.approx(float(geodesy.distance_m(47, 8, 47, 8.001)))
    assert np.isnan(errors[2:]).all()


def test_vigors_metres_are_those_of_the_truth(tmp_path: Path) -> None:
    """An oracle that finds the right tile is off by the photo's distance from its centre, photo by photo."""
    export = layout.plan(layout.VigorSpec(photos=10, cities=("Chicago",), tile_px=16, panorama_height_px=8))
    for name, data in export.annotations.items():
        path = tmp_path / "vigor" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    truth = {row["path"]: row for row in csv.DictReader(io.StringIO(truth_csv(export).decode()))}
    read = read_labels(str(tmp_path / "vigor"), "Chicago", "cross-area-test")
    tiles = {name: truth[f"Chicago/satellite/{name}.png"] for name in read.satellites}
    photos = [truth[f"Chicago/panorama/{label.panorama}"] for label in read.labels]
    names = sorted(tiles)  # as the tiles of a shard are
    away = np.array([[_metres(photo, tiles[name]) for name in names] for photo in photos])
    # The first of a label's tiles is the nearest one, and its offset is where the photo is.
    assert [names[at] for at in away.argmin(1)] == [label.tiles[0][0] for label in read.labels]
    for label, photo in zip(read.labels, photos, strict=True):
        for name, d_row, d_col in label.tiles:
            east, north = offset_m(d_row, d_col, read.satellites[name][0], corrected=True)
            assert np.hypot(east, north) == pytest.approx(_metres(photo, tiles[name]), abs=0.1)

    encoder = make_model(str(tmp_path / "model"), small_recipe())
    drawn = np.random.default_rng(0).standard_normal((len(names), encoder.embedding_dim))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    codes = np.packbits(vectors > 0, axis=1)[:, : encoder.bits // 8]
    lat, lon = (np.array([read.satellites[name][axis] for name in names]) for axis in (0, 1))
    table = pa.table({"tile_id": names, "lat": lat, "lon": lon}, schema=TILES_SCHEMA)
    write_index(tmp_path / "index", tmp_path / "model", table, codes, vectors.astype(np.float16), True)
    nearest = away.argmin(1)
    asked = EncodedQueries(
        vectors[nearest][:, None],
        codes[nearest][:, None],
        np.zeros(len(photos)),
        "panorama",
        encoder.model_id,
    )
    located = locate_group(Locator.open(str(tmp_path / "index")), asked, rerank=20)
    best = located.found.matches
    true_lat, true_lon = (np.array([getattr(label, key) for label in read.labels]) for key in ("lat", "lon"))
    errors = errors_of(best.lat[:, 0], best.lon[:, 0], true_lat, true_lon)
    np.testing.assert_allclose(errors, away.min(1), atol=0.005)
    # The median is one photo's error: of an even number the lower of the middle two, here 20 cm below their mean.
    middle = np.sort(away.min(1))[4:6]
    assert error_summary(errors)["median_m"] == pytest.approx(middle[0], abs=0.005)
    assert middle[1] - middle[0] > 0.1


def _metres(photo: dict[str, str], tile: dict[str, str]) -> float:
    return float(
        geodesy.distance_m(float(photo["lat"]), float(photo["lon"]), float(tile["lat"]), float(tile["lon"]))
    )
