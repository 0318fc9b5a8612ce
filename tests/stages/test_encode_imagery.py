"""Imagery encoded at once gives the tiles of `ingest` and the codes of their pixels."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from geoloc.core import part_table
from geoloc.core.errors import ArtifactError, InputError, TooManyBadRows
from geoloc.models.encoder import Encoder
from geoloc.sources import geotiff
from geoloc.sources.geotiff import LeftOut, cut_tiles
from geoloc.sources.sheets import find_sheets
from geoloc.stages import encode_imagery, index_imagery, ingest
from geoloc.stages.encode import EncodeConfig
from geoloc.stages.encode_imagery import ImageryEncodeConfig, ImageryEncodeInputs
from geoloc.stages.index_imagery import ImageryIndexConfig, ImageryIndexInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from tests.conftest import killed_after
from tests.small_index import make_model, small_recipe
from tests.stages.ingest_inputs import make_sheets
from tests.stages.test_ingest import digests, kill_after

TILES = IngestConfig(tile_m=51.2, tile_px=64, stride_m=20.0, rows_per_part=128)
CONFIG = ImageryEncodeConfig(tiles=TILES, encode=EncodeConfig(batch_size=5, num_actors=1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("model"))
    make_model(uri, small_recipe())
    return uri


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_the_tiles_are_those_of_ingest_and_the_codes_those_of_their_pixels(
    tmp_path: Path, model: str
) -> None:
    pattern = make_sheets(tmp_path / "sheets")
    inputs = ImageryEncodeInputs(imagery=[pattern], model=model)
    result = encode_imagery.run(CONFIG, inputs, str(tmp_path / "codes"))
    ingest.run(TILES, IngestInputs(imagery=[pattern]), str(tmp_path / "in"))
    codes = part_table.read(str(tmp_path / "codes"), kind="codes")
    stored = part_table.read(str(tmp_path / "in" / "tiles"))
    places = ["tile_id", "lat", "lon", "cell"]
    assert codes.select(places).equals(stored.select(places))
    manifests = [part_table.read_manifest(str(tmp_path / name)) for name in ("codes", "in/tiles")]
    assert [part.rows for part in manifests[0].parts] == [part.rows for part in manifests[1].parts]
    for key in ("mostly_nodata", "tile_m", "stride_m", "sheets", "overlapping_sheets"):
        assert manifests[0].details[key] == manifests[1].details[key]
    assert result.rows == codes.num_rows > 100

    sheets = find_sheets([pattern])
    cut = list(
        cut_tiles(
            geotiff.plan_grid(sheets, TILES.spec()).blocks(),
            sheets,
            TILES.spec(),
            LeftOut(),
            max_nodata_share=TILES.max_nodata_share,
            named=False,
        )
    )
    encoder = Encoder.open(model, device="cpu")
    want = encoder.encode(
        encoder.prepare([np.asarray(tile.image) for tile in cut], "aerial", extent_m=51.2), "aerial"
    )
    got = np.array(codes["embedding"].to_pylist(), dtype=np.float32)
    assert np.abs(got - want.embedding).max() < 2e-3  # float16
    bits = np.unpackbits(np.frombuffer(b"".join(codes["code"].to_pylist()), np.uint8))
    assert np.mean(bits != np.unpackbits(want.code)) < 1e-3  # other batches round differently


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_an_index_without_and_with_pictures_holds_the_same_tiles(tmp_path: Path, model: str) -> None:
    inputs = ImageryIndexInputs(imagery=[make_sheets(tmp_path / "sheets", 1)], model=model)
    config = ImageryIndexConfig(stride_m=40.0, shards=2)
    plain = index_imagery.run(config, inputs, str(tmp_path / "plain"))
    kept = index_imagery.run(
        config.model_copy(update={"keep_tiles": True}), inputs, str(tmp_path / "kept"), overwrite=True
    )
    assert plain.tiles == kept.tiles > 4
    assert not (tmp_path / "plain-tables" / "tiles").exists()
    assert part_table.read(str(tmp_path / "kept-tables" / "tiles")).num_rows == kept.tiles
    vectors = [
        np.array(part_table.read(str(tmp_path / f"{name}-tables" / "codes"))["embedding"].to_pylist())
        for name in ("plain", "kept")
    ]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.98  # JPEG alone lies between
    again = index_imagery.run(config, inputs, str(tmp_path / "plain"))
    assert again.reused


_SCRIPT = """
import sys
from geoloc.stages import encode_imagery
from geoloc.stages.encode_imagery import ImageryEncodeConfig, ImageryEncodeInputs
encode_imagery.run(
    ImageryEncodeConfig.model_validate_json(sys.argv[1]),
    ImageryEncodeInputs.model_validate_json(sys.argv[2]),
    sys.argv[3],
)
"""


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_stopped_halfway_and_run_again_equals_one_run_through(tmp_path: Path, model: str) -> None:
    """The plan of this stage; that a killed driver and its workers leave whole parts is shown for `ingest`."""
    config = CONFIG.model_copy(update={"tiles": TILES.model_copy(update={"rows_per_part": 32})})
    inputs = ImageryEncodeInputs(imagery=[make_sheets(tmp_path / "sheets", 1)], model=model)
    with killed_after(2):
        encode_imagery.run(config, inputs, str(tmp_path / "stopped"))
    assert not (tmp_path / "stopped" / part_table.MANIFEST_NAME).exists()
    encode_imagery.run(config, inputs, str(tmp_path / "stopped"))
    encode_imagery.run(config, inputs, str(tmp_path / "whole"))
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    other = config.model_copy(update={"tiles": TILES})
    with pytest.raises(ArtifactError, match="made from other inputs or settings; pass --overwrite"):
        encode_imagery.run(other, inputs, str(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_killed_halfway_and_run_again_equals_one_run_through(tmp_path: Path, model: str) -> None:
    config = CONFIG.model_copy(update={"tiles": TILES.model_copy(update={"rows_per_part": 32})})
    inputs = ImageryEncodeInputs(imagery=[make_sheets(tmp_path / "sheets")], model=model)
    arguments = [config.model_dump_json(), inputs.model_dump_json(), str(tmp_path / "killed")]
    kill_after(2, tmp_path / "killed", _SCRIPT, arguments)
    assert not (tmp_path / "killed" / part_table.MANIFEST_NAME).exists()
    encode_imagery.run(config, inputs, str(tmp_path / "killed"))
    encode_imagery.run(config, inputs, str(tmp_path / "whole"))
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_a_sheet_that_cannot_be_read_is_quarantined_and_stops_the_stage(tmp_path: Path, model: str) -> None:
    pattern = make_sheets(tmp_path / "sheets")
    broken = tmp_path / "sheets" / "sheet_1.tif"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 3])
    inputs = ImageryEncodeInputs(imagery=[pattern], model=model)
    with pytest.raises(TooManyBadRows, match="unreadable_imagery"):
        encode_imagery.run(CONFIG, inputs, str(tmp_path / "codes"))
    patient = CONFIG.model_copy(update={"encode": CONFIG.encode.model_copy(update={"max_bad_share": 1.0})})
    result = encode_imagery.run(patient, inputs, str(tmp_path / "codes"))
    assert result.quarantined["unreadable_imagery"] > 0
    assert result.rows > 0


@pytest.mark.usefixtures("ray_local")
def test_imagery_without_a_whole_tile_says_so(tmp_path: Path, model: str) -> None:
    tiles = TILES.model_copy(update={"tile_m": 400.0, "max_nodata_share": 0.0})
    inputs = ImageryEncodeInputs(imagery=[make_sheets(tmp_path / "sheets", 1)], model=model)
    with pytest.raises(InputError, match="gives no tile"):
        encode_imagery.run(CONFIG.model_copy(update={"tiles": tiles}), inputs, str(tmp_path / "codes"))


_PEAK = """
import json, resource, sys
from geoloc.stages.encode_imagery import ImageryEncoder
maker = ImageryEncoder(sys.argv[1], 32, False, True)
units = json.load(open(sys.argv[2]))
rows = maker(units[0]).rows.num_rows  # everything is loaded and warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows += sum(maker(unit).rows.num_rows for unit in units[1:])
print(json.dumps([rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]))
"""


def test_a_worker_needs_no_more_memory_for_a_sheet_of_40000_pixels(tmp_path: Path, model: str) -> None:
    """1.6 gigapixels: 4.8 GB decoded. Parts at its far corners cost what the first one costs."""
    _huge_sheet(tmp_path / "huge.tif")
    sheets = find_sheets([str(tmp_path / "huge.tif")])
    tiles = TILES.model_copy(update={"rows_per_part": 1024, "stride_m": 10.0})
    plan = encode_imagery.plan_imagery(tiles, [str(tmp_path / "huge.tif")])
    units = plan.units()
    assert asdict(sheets[0])["width"] == 40_000
    chosen = [units[index] for index in np.linspace(0, len(units) - 1, 6).astype(int)]
    (tmp_path / "units.json").write_text(json.dumps(chosen))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, model, str(tmp_path / "units.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, growth_bytes = json.loads(done.stdout)
    assert rows > 2_000
    assert growth_bytes < 60 * 2**20


def _huge_sheet(path: Path) -> None:
    """A sheet of which no block was ever written (GDAL reads zeros), but for its corners."""
    side = 40_000
    noise = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), dtype=np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype="uint8",
        crs="EPSG:3301",
        transform=from_origin(500_000, 6_550_000, 0.25, 0.25),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        sparse_ok=True,
        photometric="rgb",
    ) as sheet:
        for left, top in ((0, 0), (side - 1024, side - 1024), (side // 2, side // 2)):
            sheet.write(noise, window=rasterio.windows.Window(left, top, 1024, 1024))
