from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc.core.errors import ConfigError, GeolocError, InputError, ModelMismatch
from geoloc.recipe.recipe import Recipe
from geoloc.training.optimizer import learning_rate
from geoloc.training.pictures import row_names
from geoloc.training.place_step import VIEWS
from geoloc.training.place_store import PlaceStore, check_places, load_places, read_places
from geoloc.training.place_trainer import PlaceTrainer
from tests.small_places import TINY_PLACES, tiny_places, write_places


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("places") / "out")
    write_places(uri, 12)
    return uri


@pytest.fixture(scope="module")
def store(places: str) -> PlaceStore:
    recipe = tiny_places()
    return load_places(places, read_places(places, recipe), recipe)


def trainer_of(store: PlaceStore, recipe: Recipe) -> PlaceTrainer:
    return PlaceTrainer(store, recipe)


def test_places_without_photos_are_counted_and_junk_is_no_place(places: str) -> None:
    index = read_places(places, tiny_places())
    assert index.place_id.to_pylist() == [f"{row:04d}" for row in range(12)]
    assert index.left_out == 1
    drones = index.photos["drone"]
    names = row_names(f"{places}/queries", "query_id", drones.rows)
    assert [names[number] for number in drones.of(3)] == ["drone/0003/0", "drone/0003/1", "drone/0003/2"]
    assert "junk" not in set(names)


def test_pictures_belong_to_their_places(store: PlaceStore) -> None:
    """A drone photo is its tile in other light: of all tiles its own has the smallest spread of differences."""
    tiles = store.tiles.astype(float)
    drones, own = store.index.photos["drone"], store.index.tiles
    for place in range(len(store)):
        for row in drones.of(place):
            spread = (tiles - store.photos["drone"][row]).std(axis=(1, 2, 3))
            assert int(spread.argmin()) == int(own.of(place)[0])
    assert drones.heading_deg[drones.of(4)].tolist() == [0.0, 10.0, 20.0]
    assert np.isnan(store.index.photos["street"].heading_deg).all()


def test_a_batch_has_p_places_and_k_views_of_each(store: PlaceStore) -> None:
    trainer = trainer_of(store, tiny_places())
    rows = np.array([1, 4, 7])
    batch = trainer.batch(rows)
    assert batch.places["aerial"].tolist() == [1, 4, 7]
    assert batch.places["drone"].tolist() == [1, 1, 4, 4, 7, 7]
    assert batch.places["street"].tolist() == [1, 4, 7]
    drones = batch.images["drone"].numpy()
    for place in range(3):  # without repetition
        assert (drones[2 * place] != drones[2 * place + 1]).any()
    again = trainer_of(store, tiny_places()).batch(rows)
    assert torch.equal(again.images["drone"], batch.images["drone"])
    trainer.steps_done = 1
    assert not torch.equal(trainer.batch(rows).images["drone"], batch.images["drone"])


def test_training_learns_the_places(store: PlaceStore) -> None:
    recipe = tiny_places(steps=40)
    trainer = trainer_of(store, recipe)
    results = [trainer.step(step / 40) for step in range(40)]
    losses = [float(result.loss.detach()) for result in results]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert np.mean([float(result.accuracy) for result in results[-5:]]) > 0.7


def test_a_run_goes_on_from_its_state(store: PlaceStore) -> None:
    whole, part = trainer_of(store, tiny_places()), trainer_of(store, tiny_places())
    for step in range(3):
        whole.step(step / 10)
    part.step(0.0)
    resumed = trainer_of(store, tiny_places())
    resumed.restore(part.state())
    for step in (1, 2):
        resumed.step(step / 10)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def embedding_of(trainer: PlaceTrainer, view: str) -> torch.Tensor:
    model = trainer.model.eval()
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result: torch.Tensor = model(pictures, view)
    return result


@pytest.mark.parametrize(
    ("branches", "same"),
    [
        ({}, {("aerial", "drone")}),
        ({"drone": "drone"}, set()),
        ({"drone": "drone", "street": "panorama", "panorama": "panorama"}, set()),
    ],
)
def test_weights_are_shared_by_the_views_of_a_branch(
    store: PlaceStore, branches: dict[str, str], same: set[tuple[str, str]]
) -> None:
    base = Recipe.from_yaml(TINY_PLACES).model_dump(mode="json", exclude_none=True)
    base["model"]["branches"] |= branches
    trainer = trainer_of(store, Recipe.model_validate(base))
    trainer.step(0.0)
    of_view = {view: embedding_of(trainer, view) for view in VIEWS}
    equal = {(a, b) for a in VIEWS for b in VIEWS if a < b and torch.equal(of_view[a], of_view[b])}
    assert equal == same


def test_sgd_has_a_rate_for_the_backbones_and_drops(store: PlaceStore) -> None:
    base = Recipe.from_yaml(TINY_PLACES).model_dump(mode="json", exclude_none=True)
    base["training"] |= {
        "optimizer": {"kind": "sgd", "momentum": 0.9, "backbone_rate": 0.1},
        "schedule": "constant",
        "drops": [[0.667, 0.1]],
        "learning_rate": 0.01,
    }
    recipe = Recipe.model_validate(base)
    assert learning_rate(0.66, recipe.training) == pytest.approx(0.01)
    assert learning_rate(0.67, recipe.training) == pytest.approx(0.001)
    trainer = trainer_of(store, recipe)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.step(0.0)
    assert isinstance(trainer._optimizer, torch.optim.SGD)
    rates = {
        id(parameter): group["lr"]
        for group in trainer._optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in trainer.model.named_parameters():
        expected = 0.001 if name.startswith("backbones") else 0.003 if name.startswith("hash") else 0.01
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert any(
        (before[n] != p).any() for n, p in trainer.model.named_parameters() if n.startswith("backbones")
    )


def test_what_cannot_train_is_one_sentence(places: str, tmp_path: Path) -> None:
    recipe = tiny_places(batch_size=20)
    with pytest.raises(ConfigError, match="12 places, fewer than a batch"):
        check_places(places, read_places(places, recipe), recipe)
    large = Recipe.model_validate(
        (base := recipe.model_dump(mode="json", exclude_none=True))
        | {"model": base["model"] | {"tile_m": 64}, "training": base["training"] | {"batch_size": 8}}
    )
    with pytest.raises(ModelMismatch, match="cover 32 m"):
        check_places(places, read_places(places, large), large)
    write_places(str(tmp_path / "none"), 3, streets=0)
    with pytest.raises(InputError, match="no place_id with a tile and photos of the views drone, street"):
        read_places(str(tmp_path / "none"), recipe)
    for part in ("loss", "training"):
        text = {key: value for key, value in base[part].items() if key != "places"}
        with pytest.raises(GeolocError, match=r"loss\.places and training\.places belong together"):
            Recipe.from_yaml(__import__("yaml").safe_dump(base | {part: text}))
