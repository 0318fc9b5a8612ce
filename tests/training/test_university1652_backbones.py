"""Every backbone of the recipe `university1652`: trains by places, is saved, makes an index, and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_index import write_index

from geoloc import Localizer
from geoloc.index.format.shard import TILES_SCHEMA
from geoloc.models.encoder import Encoder
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.place_store import load_places, read_places
from geoloc.training.place_trainer import PlaceTrainer
from tests.small_places import write_places

BACKBONES: list[dict[str, Any]] = [
    *(
        {"kind": "torchvision", "name": name}
        for name in ("alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet50")
    ),
    {"kind": "torchvision", "name": "densenet121"},
    {"kind": "efficientnet_lite", "name": "lite0", "pretrained": False, "wrap": False},
    {"kind": "plain_cnn"},
]


def recipe(backbone: dict[str, Any], pooling: str) -> Recipe:
    """The published recipe with another backbone and pooling, tiny pictures and a batch of four places."""
    values = Recipe.load("university1652").model_dump(mode="json", exclude_none=True)
    values["model"] |= {"tile_m": 32, "tile_px": 64, "panorama_px": [64, 64], "backbone": backbone}
    values["model"]["aggregation"] = {"kind": pooling}
    values["training"] |= {"batch_size": 4, "steps": 2}
    return Recipe.model_validate(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", BACKBONES, ids=lambda backbone: str(backbone.get("name", backbone["kind"]))
)
def test_a_backbone_from_training_to_an_answer(backbone: dict[str, Any], tmp_path: Path) -> None:
    write_places(str(tmp_path / "places"), 6)
    wanted = recipe(backbone, "avg_max" if backbone["kind"] == "plain_cnn" else "gem")
    store = load_places(str(tmp_path / "places"), read_places(str(tmp_path / "places"), wanted), wanted)
    trainer = PlaceTrainer(store, wanted)
    before = [value.clone() for value in trainer.model.parameters()]
    assert all(np.isfinite(float(trainer.step(step / 2).loss.detach())) for step in range(2))
    assert any((old != new).any() for old, new in zip(before, trainer.model.parameters(), strict=True))
    save_model(trainer.model, wanted, str(tmp_path / "model"))
    encoder = Encoder.open(str(tmp_path / "model"), device="cpu")
    tiles = encoder.encode(encoder.prepare(list(store.tiles), "aerial", extent_m=32.0), "aerial")
    numbers = np.arange(len(store.tiles))
    table = pa.table(
        {"tile_id": [f"t{n}" for n in numbers], "lat": 45 + numbers * 1e-3, "lon": 5 + numbers * 1e-3},
        schema=TILES_SCHEMA,
    )
    half = tiles.embedding.astype(np.float16)
    write_index(tmp_path / "index", tmp_path / "model", table, tiles.code, half, True)
    localizer = Localizer.open(str(tmp_path / "index"), device="cpu", headings=1, scales=1)
    for number in (0, 3):
        fix = localizer.localize(store.tiles[number], view="drone", heading_deg=0.0)
        # A drone photo that is the tile, through the same branch; after two steps others may look as alike.
        likeness = {match.tile_id: match.similarity for match in fix.matches}
        assert likeness[f"t{number}"] > max(likeness.values()) - 2e-3
        assert likeness[f"t{number}"] > 0.99
    street = localizer.localize(store.photos["street"][0], view="street", heading_deg=0.0)
    assert len(street.matches) == 6
