from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from geoloc.core import part_table, schemas
from geoloc.core.errors import ArtifactError, CorruptArtifact, ModelMismatch
from geoloc.core.geodesy import cells
from geoloc.core.images import decode_image
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.stages import encode
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from tests.conftest import killed_after, made_here
from tests.small_index import encoded, make_model, small_recipe, texture
from tests.stages.command_output import foreign_lines
from tests.stages.test_ingest import digests, kill_after

CONFIG = EncodeConfig(batch_size=7, num_actors=1)


def make_tiles(uri: Path, part_rows: list[int], *, broken: int = 0, pixel_m: float = 0.8) -> str:
    """A tiles table of textured pictures; the first `broken` of them are cut off."""
    tables, number = [], 0
    for rows in part_rows:
        numbers = range(number, number + rows)
        number += rows
        lat = np.array([-35.0 + 0.001 * n for n in numbers])
        images = [encoded(texture(n)) for n in numbers]
        images = [data[:200] if n < broken else data for n, data in zip(numbers, images, strict=True)]
        table = pa.table(
            {
                "tile_id": pa.array([f"t{n:03d}" for n in numbers], pa.string()),
                "lat": lat,
                "lon": lat + 180,
                "cell": cells(lat, lat + 180),
                "metres_per_pixel": pa.array([pixel_m] * rows, pa.float64()),
                "image": pa.array(images, pa.binary()),
                "source": pa.array(["test"] * rows, pa.string()),
            }
        )
        tables.append(schemas.conform(table, schemas.TILES))
    part_table.write_table(str(uri), tables, kind="tiles", fingerprint="test")
    return str(uri)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("model"))
    make_model(uri, small_recipe())
    return uri


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_codes_are_those_of_the_encoder(tmp_path: Path, model: str) -> None:
    tiles = make_tiles(tmp_path / "in" / "tiles", [9, 0, 5])
    result = encode.run(CONFIG, EncodeInputs(tiles=str(tmp_path / "in"), model=model), str(tmp_path / "out"))
    assert (result.rows, result.reused, result.quarantined) == (14, False, {})
    encoder = Encoder.open(model, device="cpu")
    table = part_table.read(str(tmp_path / "out"), kind="codes")
    source = part_table.read(tiles)
    assert table.select(["tile_id", "lat", "lon", "cell"]).equals(
        source.select(["tile_id", "lat", "lon", "cell"])
    )
    pictures = [decode_image(data) for data in source["image"].to_pylist()]
    for rows in ([*range(7)], [7, 8], [*range(9, 14)]):  # a part's own batches
        batch = encoder.prepare([pictures[row] for row in rows], "aerial", extent_m=51.2)
        want = encoder.encode(batch, "aerial")
        for position, row in enumerate(rows):
            assert table["code"][row].as_py() == want.code[position].tobytes()
            got = np.array(table["embedding"][row].as_py(), dtype=np.float32)
            assert np.array_equal(got, want.embedding[position].astype(np.float16).astype(np.float32))
    assert set(table["model_id"].to_pylist()) == {encoder.model_id}
    again = encode.run(CONFIG, EncodeInputs(tiles=tiles, model=model), str(tmp_path / "out"))
    assert again.reused
    bare = encode.TileEncoder(model, 7, False, False)(units(tiles)[0])
    assert bare.rows.column_names == ["tile_id", "lat", "lon", "cell", "code", "model_id"]
    assert bare.rows["code"].to_pylist() == table["code"].to_pylist()[:9]


@pytest.mark.usefixtures("ray_local")
def test_the_command_makes_the_same_codes_and_prints_nothing_but_its_own_lines(
    tmp_path: Path, model: str
) -> None:
    """A pool of actors, of which Ray warns without need."""
    tiles = make_tiles(tmp_path / "tiles", [3, 3])
    words = ["encode", "--tiles", tiles, "--model", model, "--num-actors", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "geoloc", *words, "--output", str(tmp_path / "out")],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rows" in done.stdout
    assert done.stderr
    assert foreign_lines(done.stderr, "codes: ", "encode: ", "encoding tiles: ") == []
    with made_here():
        config = EncodeConfig(num_actors=1)
        encode.run(config, EncodeInputs(tiles=tiles, model=model), str(tmp_path / "here"))
    assert part_table.read(str(tmp_path / "out")).equals(part_table.read(str(tmp_path / "here")))


_SCRIPT = """
import sys
from geoloc.stages import encode
from geoloc.stages.encode import EncodeConfig, EncodeInputs
encode.run(
    EncodeConfig.model_validate_json(sys.argv[1]), EncodeInputs.model_validate_json(sys.argv[2]), sys.argv[3]
)
"""


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_stopped_halfway_and_run_again_equals_one_run_through(tmp_path: Path, model: str) -> None:
    """The plan of this stage; that a killed driver and its workers leave whole parts is shown for `ingest`."""
    inputs = EncodeInputs(tiles=make_tiles(tmp_path / "tiles", [4] * 6), model=model)
    with killed_after(2):
        encode.run(CONFIG, inputs, str(tmp_path / "stopped"))
    assert not (tmp_path / "stopped" / part_table.MANIFEST_NAME).exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("part-*")}
    assert len(written) == 3
    encode.run(CONFIG, inputs, str(tmp_path / "stopped"))
    encode.run(CONFIG, inputs, str(tmp_path / "whole"))
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_killed_halfway_and_run_again_equals_one_run_through(tmp_path: Path, model: str) -> None:
    inputs = EncodeInputs(tiles=make_tiles(tmp_path / "tiles", [4] * 40), model=model)
    arguments = [CONFIG.model_dump_json(), inputs.model_dump_json(), str(tmp_path / "killed")]
    kill_after(2, tmp_path / "killed", _SCRIPT, arguments)
    assert not (tmp_path / "killed" / part_table.MANIFEST_NAME).exists()
    encode.run(CONFIG, inputs, str(tmp_path / "killed"))
    encode.run(CONFIG, inputs, str(tmp_path / "whole"))
    killed = digests(tmp_path / "killed")
    assert killed == digests(tmp_path / "whole")


def units(tiles: str) -> list[dict[str, object]]:
    return [{"tiles": tiles, "part": part.model_dump()} for part in part_table.read_manifest(tiles).parts]


def test_tiles_that_cannot_be_decoded_are_refused(tmp_path: Path, model: str) -> None:
    tiles = make_tiles(tmp_path / "tiles", [3, 9], broken=4)
    encoder = encode.TileEncoder(model, 7, False, True)
    none, some = (encoder(unit) for unit in units(tiles))
    assert (none.rows.num_rows, some.rows.num_rows) == (0, 8)
    assert [(row.key, row.reason) for row in [*none.refused, *some.refused]] == [
        (f"t{n:03d}", "truncated") for n in range(4)
    ]
    assert some.rows["tile_id"].to_pylist() == [f"t{n:03d}" for n in range(4, 12)]


def test_tiles_too_small_for_the_model_stop_with_its_sentence(tmp_path: Path, model: str) -> None:
    tiles = make_tiles(tmp_path / "tiles", [4], pixel_m=0.4)
    with pytest.raises(ModelMismatch, match=r"covers 25.6 m, the model needs 51.2 m"):
        encode.TileEncoder(model, 7, False, True)(units(tiles)[0])


def broken_model(uri: str, value: float) -> str:
    recipe = small_recipe()
    network = GeoLocalizer(recipe.model)
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(value)
    save_model(network, recipe, uri)
    return uri


def test_a_model_of_nan_is_refused(tmp_path: Path) -> None:
    model = broken_model(str(tmp_path / "model"), float("nan"))
    with pytest.raises(CorruptArtifact, match="gives NaN for tile 't000'; its weights are broken"):
        encode.TileEncoder(model, 7, False, True)(units(make_tiles(tmp_path / "tiles", [4]))[0])


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_a_collapsed_model_is_refused_and_nothing_published(tmp_path: Path) -> None:
    model = broken_model(str(tmp_path / "model"), 0.0)
    inputs = EncodeInputs(tiles=make_tiles(tmp_path / "tiles", [12]), model=model)
    with pytest.raises(CorruptArtifact, match="gives the same embedding for all 12 tiles"):
        encode.run(CONFIG, inputs, str(tmp_path / "out"))
    with pytest.raises(ArtifactError, match="unfinished"):
        part_table.read_manifest(str(tmp_path / "out"))


def test_what_is_not_there_is_said(tmp_path: Path, model: str) -> None:
    with pytest.raises(ArtifactError, match="There is no table at"):
        encode.run(CONFIG, EncodeInputs(tiles=str(tmp_path / "none"), model=model), str(tmp_path / "out"))
    tiles = make_tiles(tmp_path / "tiles", [1])
    with pytest.raises(ArtifactError, match="There is no finished model at"):
        encode.run(CONFIG, EncodeInputs(tiles=tiles, model=str(tmp_path / "none")), str(tmp_path / "out"))
