from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from pydantic import ValidationError
from small_ingest import part_path

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, ConfigError, GeolocError, InputError, TooManyBadRows
from geoloc.stages import ingest
from geoloc.stages.ingest import IngestConfig, IngestInputs
from tests.stages.ingest_inputs import LAT, LON, make_photos, make_sheets

SMALL = IngestConfig(tile_m=32.0, tile_px=64, rows_per_part=40)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its path; without what writes leave when they are killed or wait."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".tmp-" not in path.name
    }


@pytest.mark.usefixtures("ray_local")
def test_imagery_and_photos_become_tables(tmp_path: Path) -> None:
    inputs = IngestInputs(imagery=[make_sheets(tmp_path / "sheets")], photos=make_photos(tmp_path, 50))
    result = ingest.run(SMALL, inputs, str(tmp_path / "out"))
    assert not result.reused
    assert result.tiles is not None
    assert result.queries is not None
    assert result.pairs is not None
    tiles = part_table.read(result.tiles.uri, kind="tiles")
    assert tiles.column_names == schemas.TILES.names
    assert schemas.conform(tiles, schemas.TILES).num_rows == tiles.num_rows
    assert tiles.num_rows == result.tiles.rows > 100
    assert len(set(tiles["tile_id"].to_pylist())) == tiles.num_rows
    assert set(tiles["metres_per_pixel"].to_pylist()) == {0.5}
    assert set(tiles["source"].to_pylist()) == {"sheet_0.tif", "sheet_1.tif", "sheet_0.tif;sheet_1.tif"}
    assert Image.open(io.BytesIO(tiles["image"][0].as_py())).size == (64, 64)
    queries = part_table.read(result.queries.uri, kind="queries")
    assert queries["query_id"].to_pylist() == [f"q{index:03d}" for index in range(50)]
    assert queries["image"][7].as_py() == (tmp_path / "photos" / "p007.jpg").read_bytes()
    pairs = part_table.read(result.pairs.uri, kind="pairs").to_pylist()
    positive = [pair for pair in pairs if pair["relation"] == "positive"]
    assert {pair["query_id"] for pair in positive} == set(queries["query_id"].to_pylist())
    assert all(np.hypot(pair["east_m"], pair["north_m"]) <= 12 for pair in positive)
    with pytest.MonkeyPatch.context() as patch:  # nothing is written, not even a lease
        for name in ("write_bytes", "put_if_absent", "compare_and_swap", "delete"):
            patch.setattr(storage, name, None)
        again = ingest.run(SMALL, inputs, str(tmp_path / "out"))
    assert again.reused
    assert again.tiles == result.tiles


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_tiles_open_as_geoparquet_elsewhere(tmp_path: Path) -> None:
    inputs = IngestInputs(imagery=[make_sheets(tmp_path / "sheets", 1)])
    ingest.run(SMALL, inputs, str(tmp_path / "out"))
    frame = geopandas.read_parquet(part_path(tmp_path / "out" / "tiles", 0))
    assert frame.crs.to_epsg() == 4326 or "CRS84" in str(frame.crs)
    assert np.allclose(frame.geometry.x, frame["lon"])
    assert np.allclose(frame.geometry.y, frame["lat"])


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_every_kind_of_bad_photo_is_quarantined_and_counted(tmp_path: Path) -> None:
    folder = make_photos(tmp_path, 12, bad=True)
    config = SMALL.model_copy(update={"max_bad_share": 0.5, "rows_per_part": 6})
    result = ingest.run(config, IngestInputs(photos=folder), str(tmp_path / "out"))
    assert result.queries is not None
    assert result.queries.rows == 12
    counts = {
        "bad_aspect": 1,
        "duplicate_id": 1,
        "empty": 1,
        "latitude_out_of_range": 1,
        "missing_coordinate": 1,
        "missing_file": 1,
        "too_small": 1,
        "truncated": 1,
        "undecodable": 1,
    }
    assert result.queries.quarantined == counts
    rows = [
        row
        for path in sorted((tmp_path / "out" / "queries" / "quarantine").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert {row["reason"]: 1 for row in rows} == counts
    assert next(row["detail"] for row in rows if row["key"] == "north").startswith("lat is 95, outside")


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_too_many_bad_rows_stop_with_the_counts_and_publish_nothing(tmp_path: Path) -> None:
    inputs = IngestInputs(photos=make_photos(tmp_path, 12, bad=True))
    with pytest.raises(TooManyBadRows) as caught:
        ingest.run(SMALL, inputs, str(tmp_path / "out"))
    assert "9 of 21 queries are bad (1 bad_aspect, 1 duplicate_id" in str(caught.value)
    assert "more than the limit of 5.0%; nothing was published" in str(caught.value)
    with pytest.raises(ArtifactError, match="is unfinished"):
        part_table.read_manifest(str(tmp_path / "out" / "queries"))


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_centres_give_one_tile_each_and_refuse_the_others_by_name(tmp_path: Path) -> None:
    pattern = make_sheets(tmp_path / "sheets", 1)
    (tmp_path / "centres.csv").write_text(
        "tile_id,lat,lon\n"
        + "".join(f"c{index},{LAT + 0.00002 * index},{LON}\n" for index in range(20))
        + f"c1,{LAT},{LON}\nfar,{LAT + 1},{LON}\nnorth,95,{LON}\n"
    )
    inputs = IngestInputs(imagery=[pattern], centres=str(tmp_path / "centres.csv"))
    config = SMALL.model_copy(update={"max_bad_share": 0.2})
    result = ingest.run(config, inputs, str(tmp_path / "out"))
    assert result.tiles is not None
    assert result.tiles.quarantined == {"duplicate_id": 1, "latitude_out_of_range": 1, "outside_imagery": 1}
    ids = part_table.read(result.tiles.uri, columns=["tile_id"])["tile_id"].to_pylist()
    assert sorted(ids) == sorted(f"c{index}" for index in range(20))


_SCRIPT = """
import sys
from geoloc.stages import ingest
from geoloc.stages.ingest import IngestConfig, IngestInputs
ingest.run(
    IngestConfig.model_validate_json(sys.argv[1]), IngestInputs.model_validate_json(sys.argv[2]), sys.argv[3]
)
"""


def kill_after(parts_there: int, folder: Path, script: str, arguments: list[str]) -> None:
    """Run a stage in its own process and SIGKILL it as soon as that many parts are written."""
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("part-*.parquet"))) < parts_there:
            assert process.poll() is None, "the stage ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("ray_local")
def test_killed_halfway_and_run_again_equals_one_run_through(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"rows_per_part": 9})
    inputs = IngestInputs(imagery=[make_sheets(tmp_path / "sheets")], photos=make_photos(tmp_path, 90))
    arguments = [config.model_dump_json(), inputs.model_dump_json(), str(tmp_path / "killed")]
    kill_after(3, tmp_path / "killed" / "tiles", _SCRIPT, arguments)
    assert not (tmp_path / "killed" / "tiles" / part_table.MANIFEST_NAME).exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "tiles").glob("part-*")}
    ingest.run(config, inputs, str(tmp_path / "killed"))
    ingest.run(config, inputs, str(tmp_path / "whole"))
    killed, whole = digests(tmp_path / "killed"), digests(tmp_path / "whole")
    assert killed == whole
    assert len(before) < sum(name.startswith("tiles/part-") for name in whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in list(before.items())[:2])


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_other_settings_or_a_replaced_sheet_need_overwrite(tmp_path: Path) -> None:
    inputs = IngestInputs(imagery=[make_sheets(tmp_path / "sheets", 1)])
    ingest.run(SMALL, inputs, str(tmp_path / "out"))
    other = SMALL.model_copy(update={"jpeg_quality": 70})
    with pytest.raises(ArtifactError, match="made from other inputs or settings; pass --overwrite"):
        ingest.run(other, inputs, str(tmp_path / "out"))
    assert not ingest.run(other, inputs, str(tmp_path / "out"), overwrite=True).reused
    shutil.copytree(tmp_path / "sheets", tmp_path / "moved")
    moved = IngestInputs(imagery=[inputs.imagery[0].replace("/sheets", "/moved")])
    os.utime(tmp_path / "moved" / "sheet_0.tif", (1, 1))
    assert ingest.run(other, moved, str(tmp_path / "out")).reused
    sheet = tmp_path / "sheets" / "sheet_0.tif"
    data, times = sheet.read_bytes(), sheet.stat()
    sheet.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(sheet, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ArtifactError, match="made from other inputs"):
        ingest.run(other, inputs, str(tmp_path / "out"))


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_imagery_without_a_whole_tile_says_so(tmp_path: Path) -> None:
    inputs = IngestInputs(imagery=[make_sheets(tmp_path / "sheets", 1)])
    with pytest.raises(
        InputError, match=r"gives no tile: \d+ places have more than 0% holes; use a smaller tile_m"
    ):
        ingest.run(
            IngestConfig(tile_m=400.0, tile_px=64, max_nodata_share=0.0), inputs, str(tmp_path / "out")
        )


def test_configurations_that_cannot_work_say_why() -> None:
    def sentence(make: object, **values: object) -> str:
        with pytest.raises((GeolocError, ValidationError)) as caught:
            make(**values)  # type: ignore[operator]
        return str(caught.value)

    assert "use 51.3 m" in sentence(IngestConfig, tile_m=51.2, metres_per_pixel=0.3)
    assert "There is nothing to ingest" in sentence(IngestInputs)
    assert "no imagery to cut" in sentence(IngestInputs, photos="a.csv", centres="c.csv")
    assert "Extra inputs" in sentence(IngestConfig, tile_size=3)
    assert issubclass(ConfigError, GeolocError)
    assert json.loads(IngestConfig().model_dump_json())["tile_m"] == 64.0
