"""Cards and recipes of model directories, read without the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_index import make_model, small_recipe

from geoloc.core import storage
from geoloc.core.errors import CorruptArtifact
from geoloc.models.card import CARD_NAME, RECIPE_NAME, read_card, read_inputs, read_recipe
from geoloc.recipe.model import ModelInputs


def test_the_inputs_of_a_model_are_those_of_its_recipe(tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    make_model(uri, small_recipe())
    whole = read_recipe(uri).model
    inputs = read_inputs(uri)
    assert type(inputs) is ModelInputs
    assert inputs.model_dump() == whole.model_dump(include=set(ModelInputs.model_fields))
    assert inputs.metres_per_pixel == whole.tile_m / whole.tile_px


@pytest.mark.parametrize("text", ["name: x\n", "- 1\n", "model: {tile_px: none}\n", "model: [", ""])
def test_a_recipe_without_inputs_is_damaged(tmp_path: Path, text: str) -> None:
    uri = str(tmp_path / "m")
    make_model(uri, small_recipe())
    card = read_card(uri).model_copy(update={"recipe_sha256": storage.sha256_bytes(text.encode())})
    (tmp_path / "m" / RECIPE_NAME).write_text(text)
    with pytest.raises(CorruptArtifact, match="does not match the checksum"):
        read_inputs(uri)
    (tmp_path / "m" / CARD_NAME).write_text(card.model_dump_json())
    with pytest.raises(CorruptArtifact, match="no recipe of a model"):
        read_inputs(uri)
