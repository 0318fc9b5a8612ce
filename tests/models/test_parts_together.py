"""One model from the parts that a recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc.core.errors import ModelMismatch
from geoloc.geometry.orientation import aerial_orientation, ground_orientation, polar_orientation
from geoloc.geometry.polar import aerial_to_polar
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import normalise
from geoloc.models.store import load_model, load_weights, save_model, weights_of
from geoloc.recipe.recipe import ModelRecipe, Recipe, built_in_recipes

PLAIN = {"kind": "plain_cnn", "widths": [8, 12], "strides": [4, 2]}
ORICNN = {"kind": "oricnn", "widths": [6, 8, 8, 8]}


def recipe(**changes: object) -> ModelRecipe:
    base: dict[str, object] = {
        "tile_m": 32,
        "tile_px": 64,
        "panorama_px": [16, 64],
        "view": {"kind": "polar", "height_px": 16, "width_px": 64},
        "backbone": PLAIN,
        "aggregation": {"kind": "column_attention", "columns": 8, "channels": 4},
        "hash": {"bits": 64, "prefixes": [32, 64]},
    }
    return ModelRecipe.model_validate(base | changes)


def small(kind: str) -> dict[str, object]:
    return {"kind": kind} if kind == "none" else {"kind": kind, "height_px": 16, "width_px": 64}


COMBINATIONS = {
    "square, oricnn, maps at the input, gem": {
        "view": {"kind": "none"},
        "backbone": ORICNN,
        "orientation": {"scheme": "input"},
        "aggregation": {"kind": "gem"},
        "shared_weights": False,
    },
    "square, oricnn, maps at all scales, learnt gem": {
        "view": {"kind": "none"},
        "backbone": ORICNN,
        "orientation": {"scheme": "scales", "sampling": "paper"},
        "aggregation": {"kind": "gem", "learnt": True},
    },
    "polar, maps at all scales, columns": {"orientation": {"scheme": "scales"}},
    "affine, safa": {"view": small("affine"), "aggregation": {"kind": "safa", "heads": 3}},
    "composed, gap, projection": {
        "view": small("composed"),
        "aggregation": {"kind": "gap"},
        "projection": {"channels": 20},
    },
    "spline from the polar, columns, shared projection": {
        "view": small("tps") | {"start": "polar"},
        "projection": {"channels": 3, "shared": True},
        "shared_weights": False,
    },
    "torchvision, maps at the input, safa": {
        "view": {"kind": "none"},
        "backbone": {"kind": "torchvision", "name": "resnet18", "stages": 1, "max_pool": False},
        "orientation": {"scheme": "input"},
        "aggregation": {"kind": "safa", "heads": 2, "pool": "mean"},
        "pixels": {},
    },
    "three branches, codes by columns": {
        "branches": {"street": "street", "drone": "aerial"},
        "shared_weights": False,
        "hash": {"bits": 64, "prefixes": [32, 64], "layout": "columns"},
    },
}


@pytest.mark.parametrize("changes", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_parts_make_a_model_that_survives_its_directory(
    changes: Mapping[str, object], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = Recipe(name="x", model=recipe(**changes))
    model = GeoLocalizer(whole.model).eval()
    tiles, panoramas = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 16, 64)
    with torch.no_grad():
        seen = model.convert_view(tiles)
        assert seen.shape[2:] == whole.model.aerial_px
        embedded = {
            "panorama": model(panoramas, "panorama"),
            "street": model(panoramas, "street"),
            "aerial": model(seen, "aerial"),
        }
    for values in embedded.values():
        assert values.shape == (2, whole.model.embedding_dim)
        torch.testing.assert_close(values.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    assert model.hash(embedded["aerial"]).shape == (2, 64)
    save_model(model, whole, str(tmp_path / "m"))
    loaded, read, _ = load_model(str(tmp_path / "m"))
    assert read == whole
    with torch.no_grad():
        torch.testing.assert_close(loaded(loaded.convert_view(tiles), "aerial"), embedded["aerial"])
    other = GeoLocalizer(recipe(aggregation={"kind": "column_attention", "columns": 8, "channels": 5}))
    with pytest.raises(ModelMismatch):
        load_weights(other, weights_of(model), where="x")


# The transforms of `stn` differ in what the backbone is shown, not in its shape.
SHAPES = [
    name for name in built_in_recipes() if not any(part in name for part in ("affine", "composed", "tps"))
]


@pytest.mark.parametrize("name", SHAPES)
def test_built_in_recipes_have_the_dimension_they_state(name: str) -> None:
    built_in = Recipe.load(name).model
    if built_in.backbone.kind == "timm":
        pytest.importorskip("timm", reason="timm is not installed: pip install 'geoloc[timm]'")
    with torch.device("meta"):
        backbone = built_in.backbone.build(built_in.orientation)
        for size in (built_in.panorama_px, built_in.aerial_px):
            maps = None if built_in.orientation is None else torch.empty(2, 2, *size)
            features = backbone(torch.empty(2, 3, *size), maps)
            assert tuple(features.shape[2:]) == backbone.map_size(*size)
            head = built_in.aggregation.build(backbone.channels, backbone.map_size(*size))
            assert head(features).numel() == 2 * built_in.columns * built_in.aggregated_channels


def test_views_and_branches() -> None:
    model = GeoLocalizer(recipe(branches={"street": "street", "drone": "drone"}, shared_weights=False))
    assert list(model.backbones) == ["panorama", "street", "aerial", "drone"]
    assert model.backbones["street"] is not model.backbones["panorama"]
    assert model.branch_of("drone") == "drone"
    shared = GeoLocalizer(recipe(branches={"street": "street", "drone": "drone"}))
    assert len({id(backbone) for backbone in shared.backbones.values()}) == 1


def test_a_look_is_turned_before_the_square_is_cut() -> None:
    model = GeoLocalizer(recipe(view={"kind": "none"}, aggregation={"kind": "gap"}))
    tile = torch.rand(1, 3, 80, 80)
    plain = model.convert_view(tile)
    torch.testing.assert_close(plain, tile[:, :, 8:72, 8:72], atol=1e-5, rtol=0)
    pose = Pose(east_m=torch.tensor([2.0]), heading_deg=torch.tensor([90.0]))  # half a metre a pixel
    moved = model.convert_view(tile, pose)
    expected = torch.rot90(tile[:, :, 8:72, 12:76], 1, dims=(2, 3))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)
    assert model.convert_view(plain) is plain  # nothing to cut, nothing to resample


def test_the_polar_view_may_be_the_published_one() -> None:
    model = GeoLocalizer(recipe(view=small("polar") | {"sampling": "paper"}))
    tile = torch.rand(1, 3, 64, 64)
    expected = aerial_to_polar(tile, height_px=16, width_px=64, sampling="paper")
    torch.testing.assert_close(model.convert_view(tile), expected)


def test_maps_say_how_a_picture_was_turned() -> None:
    heading = torch.tensor([90.0, 200.0])
    mirrored = torch.tensor([False, True])
    turned = torch.tensor([90.0, -200.0])  # the mirrored world's east is the other way
    pose = Pose(heading_deg=heading, scale=torch.tensor([1.0, 0.5]), mirrored=mirrored)
    square = GeoLocalizer(
        recipe(view={"kind": "none"}, aggregation={"kind": "gap"}, orientation={"scheme": "input"})
    )
    assert square.maps is not None
    torch.testing.assert_close(square.maps("aerial", 2), aerial_orientation(64).expand(2, -1, -1, -1))
    torch.testing.assert_close(
        square.maps("aerial", 2, pose), aerial_orientation(64, yaw_deg=turned, scale=pose.scale)
    )
    ground = ground_orientation(16, 64, elevation_deg=(-42.0, 32.0), yaw_deg=turned)
    torch.testing.assert_close(square.maps("panorama", 2, pose), ground)
    polar = GeoLocalizer(recipe(orientation={"scheme": "input"}))
    assert polar.maps is not None
    torch.testing.assert_close(polar.maps("drone", 1), polar_orientation(16, 64))
    assert "maps.ground" not in polar.state_dict()


def test_maps_change_the_embedding_and_shared_batches_do_not() -> None:
    torch.manual_seed(0)
    model = GeoLocalizer(recipe(orientation={"scheme": "input"})).eval()
    images = torch.rand(2, 3, 16, 64)
    north, east = (
        model(images, "panorama"),
        model(images, "panorama", Pose(heading_deg=torch.full((2,), 90.0))),
    )
    assert (north - east).norm(dim=1).min() > 1e-3
    pose = Pose(heading_deg=torch.tensor([10.0, 300.0]))
    together = model.columns_of([images, images], ["panorama", "aerial"], [pose, None])
    torch.testing.assert_close(together[0], model.columns(images, "panorama", pose), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1], model.columns(images, "aerial"), atol=1e-5, rtol=1e-5)


def test_pixels_are_brought_to_the_recipes_range() -> None:
    images = torch.rand(1, 3, 2, 2)
    pixels = recipe(pixels={"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4], "order": "bgr"}).pixels
    got = normalise(images, pixels)
    torch.testing.assert_close(got[:, 0], images[:, 2] - 0.1)
    torch.testing.assert_close(got[:, 2], (images[:, 0] - 0.3) / 4)
    torch.testing.assert_close(normalise(images), (images - 0.45) / 0.25)


def opened(changes: Mapping[str, object], tmp_path: Path) -> Encoder:
    torch.manual_seed(0)
    whole = Recipe(name="x", model=recipe(**changes))
    save_model(GeoLocalizer(whole.model), whole, str(tmp_path / "m"))
    return Encoder.open(str(tmp_path / "m"))


SQUARE = {"view": {"kind": "none"}, "aggregation": {"kind": "gap"}, "orientation": {"scheme": "input"}}


@pytest.mark.parametrize(
    "changes",
    [SQUARE, {"view": small("tps")}, {"orientation": {"scheme": "scales"}}],
    ids=["square", "tps", "maps"],
)
def test_candidates_without_rolling_are_the_picture_turned_to_north(
    changes: Mapping[str, object], tmp_path: Path
) -> None:
    encoder = opened(changes, tmp_path)
    rng = np.random.default_rng(0)
    panorama = rng.integers(0, 255, (16, 64, 3), dtype=np.uint8)
    unknown = encoder.encode_headings(encoder.prepare([panorama], "panorama"), "panorama", 4)
    for candidate in range(4):
        known = encoder.encode(
            encoder.prepare([panorama], "panorama", heading_deg=90.0 * candidate), "panorama"
        )
        np.testing.assert_allclose(unknown.embedding[0, candidate], known.embedding[0], atol=1e-5)
    tile = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    reference = encoder.encode(encoder.prepare([tile], "aerial"), "aerial").embedding[0]
    for turns in range(4):
        photo = np.rot90(tile, turns).copy()  # the drone flies towards turns * 90 degrees
        found = encoder.encode_headings(encoder.prepare([photo], "drone"), "drone", 4).embedding[0]
        assert int((found @ reference).argmax()) == turns
        assert float((found @ reference).max()) > 0.9999


def test_codes_by_columns_turn_with_the_photo(tmp_path: Path) -> None:
    encoder = opened({"hash": {"bits": 64, "prefixes": [32], "layout": "columns"}}, tmp_path)
    panorama = np.random.default_rng(0).integers(0, 255, (16, 64, 3), dtype=np.uint8)
    codes = encoder.encode_headings(encoder.prepare([panorama], "panorama"), "panorama", 8).code[0]
    bits = np.unpackbits(codes, axis=-1).reshape(8, 8, 8)  # candidate, bit, column
    for turn in range(8):
        np.testing.assert_array_equal(bits[turn], np.roll(bits[0], turn, axis=-1))
    assert 0.2 < bits.mean() < 0.8


def test_the_default_recipe_draws_the_weights_it_always_drew() -> None:
    whole = Recipe.load("geoloc")
    assert whole.fingerprint() == "ea9149f0b384840cd211afc4e1beefe03bc70c6dcc5f6d57ceffb7c9a7ddca97"
    torch.manual_seed(whole.seed)
    state = GeoLocalizer(whole.model).state_dict()
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if name != "hash.project.weight":  # made by a decomposition whose last bits depend on the machine
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == "2a71e91be59951587abed1c2af8833b6c9a4234c0ba3963d3707a6ce70c301d9"
    first = [0.04883241653442383, 0.03930725157260895, 0.02901117131114006, -0.06149519607424736]
    assert state["hash.project.weight"][0, :4].tolist() == pytest.approx(first, abs=1e-5)
