from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.models.views.spatial_transformers import AffineView, ComposedView, SplineView
from geoloc.models.views.unlearned import PolarView, SquareView
from geoloc.recipe.recipe import ModelRecipe, Recipe
from geoloc.training.comparison.aerial_views import HeadingScores, aerial_view, score_headings
from geoloc.training.comparison.measurements import MeasurementStore, TestTable
from geoloc.training.heading_and_fov import ProtocolPhotos

SIDE = 64
VIEWS = [
    PolarView(height_px=16, width_px=64),
    PolarView(height_px=16, width_px=64, radial_power=1.5),
    PolarView(height_px=16, width_px=64, sampling="paper"),
    SquareView(),
    AffineView(height_px=16, width_px=64),
    ComposedView(height_px=16, width_px=64),
    SplineView(height_px=16, width_px=64, start="polar"),
]


def model_of(view: object) -> GeoLocalizer:
    torch.manual_seed(0)
    recipe = ModelRecipe.model_validate(
        {"tile_m": 32, "tile_px": SIDE, "panorama_px": [16, 64], "view": view}
        | {"backbone": {"widths": [4], "strides": [2]}, "aggregation": {"kind": "gap"}}
        | {"hash": {"bits": 8, "prefixes": [8]}}
    )
    return GeoLocalizer(recipe).eval()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.kind}{getattr(view, 'radial_power', '')}")
def test_places_are_where_the_pixels_come_from(view: PolarView) -> None:
    # A tile whose colours say where they are: red grows to the east, green to the south.
    ramp = np.arange(SIDE) * 255 / (SIDE - 1)
    tile = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    tile[..., 0], tile[..., 1] = ramp.round(), ramp.round()[:, None]
    model = model_of(view)
    sight = aerial_view(model, tile)
    height, width = model.recipe.aerial_px
    assert sight.pictures.shape == (1, height, width, 3)
    assert sight.places.shape == (1, height, width, 2)
    inside = (np.abs(sight.places) < 0.97).all(-1)
    assert inside.mean() > 0.7
    # Pixel p of S lies at (2 p + 1) / S - 1 and has the colour 255 p / (S - 1).
    colour = ((sight.places + 1) * SIDE - 1) / 2 * 255 / (SIDE - 1)
    np.testing.assert_allclose(sight.pictures[inside][:, :2], colour[inside], atol=2)
    assert sight.controls.shape[1] == (60 if view.kind == "tps" else 0)


def test_a_photo_that_is_a_polar_image_points_to_its_heading(
    tiny: Recipe, ingested: str, tmp_path: Path
) -> None:
    # With branches that are the same, both views embed nearly the same picture, trained or not.
    torch.manual_seed(0)
    model = GeoLocalizer(tiny.model)
    model.heads["aerial"].load_state_dict(model.heads["panorama"].state_dict())
    save_model(model, tiny, str(tmp_path / "m"))
    encoder = Encoder.open(str(tmp_path / "m"))
    store = MeasurementStore(str(tmp_path), None, 1).pairs(TestTable("t", ingested, ()), tiny)
    rows = np.array([3, 40, 77])
    circles = score_headings(encoder, store, rows)
    assert circles.own.shape == circles.other.shape == (3, 16)
    assert set(np.abs(circles.shown.heading_deg % (360 / 64))) == {0.0}
    error = np.abs((circles.heading_deg - circles.shown.heading_deg + 180) % 360 - 180)
    assert np.median(error) < 25
    # The same scores, one pair at a time.
    tiles = encoder.encode(encoder.prepare(list(store.tiles), "aerial", extent_m=40.0), "aerial").embedding
    photos = encoder.encode_headings(circles.shown.canvases, "panorama", 16).embedding
    scores = np.einsum("qrd,td->qtr", photos, tiles)
    for photo, row in enumerate(rows):
        own = store.tile_of[row]
        np.testing.assert_allclose(circles.own[photo], scores[photo, own], atol=1e-5)
        best = max((t for t in range(len(tiles)) if t != own), key=lambda t: scores[photo, t].max())
        np.testing.assert_allclose(circles.other[photo], scores[photo, best], atol=1e-5)


def test_a_photo_is_found_when_its_own_tile_scores_most() -> None:
    shown = ProtocolPhotos(np.zeros((2, 1, 1, 3), np.uint8), np.ones((2, 1), bool), np.zeros(2))
    own, other = np.array([[0.1, 0.9], [0.2, 0.3]]), np.array([[0.8, 0.2], [0.0, 0.4]])
    assert HeadingScores(shown, own, other, np.zeros(2)).own_first.tolist() == [True, False]
