from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_index import make_model, small_recipe, write_index

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.core.images import decode_image
from geoloc.index.format.shard import TILES_SCHEMA
from geoloc.synthetic.stages.ablations import CityAblationConfig, CityAblationInputs, run
from geoloc.synthetic.stages.city import CityConfig
from geoloc.synthetic.world.ablation import BASE, LEFT_OUT
from geoloc.synthetic.world.districts import plan_districts
from geoloc.synthetic.world.export import render_photo
from geoloc.synthetic.world.georeference import to_latlon
from geoloc.synthetic.world.raster import City

CITY = CityConfig(
    seed=3, train_photos=6, validation_photos=3, test_photos=8, distractors=6, anywhere_photos=3, sheet_m=256.0,
    panorama_height_px=32, panorama_width_px=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> CityAblationInputs:
    """A city's record, and an index in which the embedding of each tile is that of its very photo."""
    root = tmp_path_factory.mktemp("ablation")
    record = {"config": CITY.model_dump(), "fingerprint": CITY.fingerprint()}
    storage.write_bytes(str(root / "city" / "city.json"), json.dumps(record).encode())
    city = City(CITY.seed)
    district = plan_districts(city, CITY.districts())[2]
    ids, x, y = zip(*district.centres, strict=True)
    taken = [
        min(district.photos, key=lambda photo, at=at: np.hypot(photo.x - at[1], photo.y - at[2]))
        for at in district.centres
    ]
    pictures = [decode_image(render_photo(city, photo, CITY.camera())) for photo in taken]
    encoder = make_model(str(root / "model"), small_recipe())
    codes = encoder.encode(encoder.prepare(pictures, "panorama", heading_deg=[0.0] * len(ids)), "panorama")
    lat, lon = to_latlon(x, y)
    table = pa.table({"tile_id": ids, "lat": lat, "lon": lon}, schema=TILES_SCHEMA)
    write_index(
        root / "index", root / "model", table, codes.code, codes.embedding.astype(np.float16), located=True
    )
    return CityAblationInputs(index=str(root / "index"), city=str(root / "city"))


def test_the_base_finds_every_photo_and_the_rest_is_measured_beside_it(
    inputs: CityAblationInputs, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    result = run(CityAblationConfig(), inputs, output)
    assert (result.photos, result.tiles, result.reused) == (8, 8, False)
    found = {row.left_out: row for row in result.ablations}
    assert tuple(found) == LEFT_OUT
    assert found[BASE].recall_at_1 == 1.0
    assert found["below the horizon"].recall_at_1 < 0.8
    assert all(row.of_base == row.recall_at_1 for row in result.ablations)
    assert "8 test photos, 8 tiles" in result.text()
    assert run(CityAblationConfig(), inputs, output).ablations == result.ablations
    assert run(CityAblationConfig(), inputs, output).reused
    with pytest.raises(ArtifactError, match="holds ablations made from other inputs or settings"):
        run(CityAblationConfig(photos=4), inputs, output)


def test_a_city_that_is_not_there_or_of_another_renderer_is_refused(
    inputs: CityAblationInputs, tmp_path: Path
) -> None:
    nowhere = inputs.model_copy(update={"city": str(tmp_path)})
    with pytest.raises(ArtifactError, match="There is no finished city"):
        run(CityAblationConfig(), nowhere, str(tmp_path / "out"))
    record = {"config": CITY.model_dump(), "fingerprint": "older"}
    storage.write_bytes(str(tmp_path / "city.json"), json.dumps(record).encode())
    with pytest.raises(ArtifactError, match="made by another version of the renderer"):
        run(CityAblationConfig(), nowhere, str(tmp_path / "out"))
