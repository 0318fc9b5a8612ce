"""The model that ships with the package: its directory, its name, and an index that is made with no model named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc import Localizer
from geoloc.core import part_table, storage
from geoloc.localization.calibration import read_calibration
from geoloc.localization.judgement import describe_index
from geoloc.models.built_in import BUILT_IN, model_location
from geoloc.models.card import read_card, read_recipe
from geoloc.models.encoder import Encoder
from geoloc.stages import index_imagery
from geoloc.stages.index_imagery import ImageryIndexConfig, ImageryIndexInputs
from tests.stages.ingest_inputs import make_sheets

MOST_BYTES = 4 * 2**20


def test_the_name_leads_into_the_package_and_paths_stay_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(model_location(BUILT_IN), "model.json").is_file()
    assert model_location("./builtin") == str(tmp_path / "builtin")
    assert model_location("s3://bucket/model") == "s3://bucket/model"


def test_the_directory_is_a_whole_model_and_small() -> None:
    files = storage.list_files(model_location(BUILT_IN), recursive=True)
    assert {file.name for file in files} == {
        "calibration.json",
        "metrics.jsonl",
        "model.json",
        "model.safetensors",
        "recipe.yaml",
    }
    assert sum(file.size_bytes for file in files) <= MOST_BYTES
    encoder = Encoder.open(BUILT_IN, device="cpu")  # checks the checksums
    assert encoder.model_id == read_card(model_location(BUILT_IN)).model_id
    calibration = read_calibration(storage.join(model_location(BUILT_IN), "calibration.json"))
    assert calibration.transferred
    assert calibration.model_id == encoder.model_id
    assert sorted(calibration.query_kinds) == ["panorama/heading_known", "panorama/heading_unknown"]


def test_the_page_names_the_model_that_ships() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "model_in_the_box.md"
    card = read_card(model_location(BUILT_IN))
    assert f"`{card.model_id}`" in page.read_text()
    assert f"`{card.weights_sha256}`" in page.read_text()


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_imagery_is_indexed_without_a_model_and_its_tiles_are_found(tmp_path: Path) -> None:
    sheets = [make_sheets(tmp_path / "sheets", 1)]
    config = ImageryIndexConfig(stride_m=40.0, keep_tiles=True, shards=1)
    built = index_imagery.run(config, ImageryIndexInputs(imagery=sheets), str(tmp_path / "index"))
    localizer = Localizer.open(built.index_uri, device="cpu")
    described = describe_index(built.index_uri)
    assert described.calibrated_kinds == ["panorama/heading_known", "panorama/heading_unknown"]
    assert "came with the model and saw no photo of this index" in described.calibration_notes[0]
    assert localizer.encoder.model_id == read_card(model_location(BUILT_IN)).model_id
    tile_m = read_recipe(model_location(BUILT_IN)).model.tile_m
    tiles = part_table.read(f"{built.index_uri}-tables/tiles", columns=["tile_id", "image"]).to_pylist()
    found = [
        localizer.localize(row["image"], view="drone", heading_deg=0.0, extent_m=tile_m).matches[0].tile_id
        for row in tiles[:8]
    ]
    assert np.mean([name == row["tile_id"] for name, row in zip(found, tiles, strict=False)]) >= 0.9
    named = ImageryIndexInputs(imagery=sheets, model=model_location(BUILT_IN))
    assert index_imagery.run(config, named, str(tmp_path / "index")).reused
