from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_ingest import part_path

from geoloc.core import part_table, schemas
from geoloc.core.errors import ArtifactError
from geoloc.synthetic.stages.tiles import CityTilesConfig, make_tiles, run
from geoloc.synthetic.world.distractors import TILES_PER_SQUARE

SMALL = CityTilesConfig(count=TILES_PER_SQUARE + 30, seed=3, tile_px=64)


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("tiles") / "out")
    result = run(SMALL, output)
    assert (result.rows, result.parts, result.reused) == (SMALL.count, 2, False)
    assert result.bytes == sum(path.stat().st_size for path in Path(output).glob("part-*"))
    return output


def test_it_is_a_tiles_table(made: str) -> None:
    table = part_table.read(made, kind="tiles")
    assert table.schema.names == schemas.TILES.names
    assert len(set(table["tile_id"].to_pylist())) == SMALL.count
    assert not table["lat"].null_count
    picture = np.asarray(Image.open(io.BytesIO(table["image"][5].as_py())))
    assert picture.shape == (64, 64, 3)
    assert table["metres_per_pixel"][0].as_py() == pytest.approx(0.8)
    assert set(table["source"].to_pylist()) == {"city default 3, distractors"}


def test_fewer_tiles_are_the_first_of_more(made: str, tmp_path: Path) -> None:
    run(SMALL.model_copy(update={"count": 20}), str(tmp_path / "few"))
    few, many = part_table.read(str(tmp_path / "few")), part_table.read(made).slice(0, 20)
    assert few.to_pylist() == many.to_pylist()


def test_a_second_run_reuses_and_a_lost_part_is_made_again_to_the_byte(made: str) -> None:
    assert run(SMALL, made).reused
    part = part_path(made, 1)
    before = part.read_bytes()
    part.unlink()
    (Path(made) / "table.json").unlink()
    again = run(SMALL, made)
    assert not again.reused
    assert part.read_bytes() == before
    with pytest.raises(ArtifactError, match="--overwrite"):
        run(SMALL.model_copy(update={"seed": 4}), made)


def test_a_part_made_here_is_the_part_of_the_workers(made: str) -> None:
    unit = {
        "square": 1,
        "last": 30,
        "seed": 3,
        "style": "default",
        "tile_m": 51.2,
        "tile_px": 64,
        "quality": 92,
    }
    part = part_table.read_manifest(made).parts[1]
    assert make_tiles(unit).rows.to_pylist() == part_table.read_part(made, part).to_pylist()
