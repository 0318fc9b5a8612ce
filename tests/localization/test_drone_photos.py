"""Drone photos: their ground seen straight down, and extents that are tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from small_index import texture

from geoloc import Localizer
from geoloc.core.errors import QueryError
from geoloc.core.photo_facts import DroneTags, PhotoFacts
from geoloc.geometry.oblique import ground_homography
from geoloc.localization.extents import extents_to_try
from geoloc.localization.query_photos import photo

FOV_DEG = 40.0
TILE_M = 51.2


@pytest.fixture(scope="module")
def localizer(small_index):
    return Localizer.open(small_index.index, device="cpu")


def surrounded(tile, seed=900):
    """The tile in the middle of three times its side of other ground."""
    ground = np.asarray(Image.fromarray(texture(seed)).resize((192, 192), Image.Resampling.BICUBIC)).copy()
    ground[64:128, 64:128] = tile
    return ground


def seen_by_drone(ground, pitch_deg, altitude_m, side_m, *, width=240, height=180):
    """A photo [height, width] of flat ground; the picture [S, S, 3] covers `side_m` metres about the camera's axis."""
    inverse = np.linalg.inv(ground_homography(pitch_deg, FOV_DEG, width, height))
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    x, y, w = np.tensordot(inverse, np.stack([columns, rows, np.ones_like(rows)]), axes=1)
    right, forward = altitude_m * x / w, altitude_m * y / w
    scale = len(ground) / side_m
    row = np.clip(np.floor(len(ground) / 2 - forward * scale), 0, len(ground) - 1).astype(int)
    column = np.clip(np.floor(len(ground) / 2 + right * scale), 0, len(ground) - 1).astype(int)
    return ground[row, column]


@pytest.mark.parametrize("pitch_deg", [40.0, 60.0, 90.0])
def test_a_slanting_photo_is_located_by_the_ground_about_its_axis(localizer, small_index, pitch_deg):
    for number in (4, 17, 33):
        image = seen_by_drone(surrounded(small_index.tiles[number]), pitch_deg, 120.0, 3 * TILE_M)
        given = {"view": "drone", "heading_deg": 0.0, "fov_deg": FOV_DEG}
        fix = localizer.localize(image, altitude_m=120.0, pitch_deg=pitch_deg, **given)
        assert fix.matches[0].tile_id == small_index.tile_ids[number]
        gimbal = localizer.localize(image, altitude_m=120.0, pitch_deg=-pitch_deg, **given)
        assert gimbal.matches == fix.matches


def test_the_homography_brings_a_slanting_photo_nearer_to_its_tile(localizer, small_index):
    image = seen_by_drone(surrounded(small_index.tiles[8]), 40.0, 120.0, 3 * TILE_M)
    given = {"view": "drone", "heading_deg": 0.0, "fov_deg": FOV_DEG, "k": 60, "rerank": 60}
    turned = localizer.localize(image, altitude_m=120.0, pitch_deg=40.0, **given)
    as_if_nadir = localizer.localize(image, altitude_m=120.0 / math.sin(math.radians(40.0)), **given)

    def likeness(fix):
        (own,) = (m.similarity for m in fix.matches if m.tile_id == small_index.tile_ids[8])
        return own

    assert likeness(turned) > likeness(as_if_nadir) + 0.05


def test_the_heading_of_a_slanting_photo_is_found(localizer, small_index):
    # Flying to the east, the photo's top is the east of the ground.
    ground = np.ascontiguousarray(np.rot90(surrounded(small_index.tiles[21])))
    image = seen_by_drone(ground, 50.0, 120.0, 3 * TILE_M)
    fix = localizer.localize(image, view="drone", altitude_m=120.0, pitch_deg=50.0, fov_deg=FOV_DEG)
    assert fix.matches[0].tile_id == small_index.tile_ids[21]
    assert abs((fix.heading_deg - 90.0 + 180) % 360 - 180) < 12.0


def test_an_unknown_extent_is_searched(localizer, small_index):
    first = Localizer(localizer.locator, localizer.encoder, scales=1)
    found, lost = 0, 0
    for number in (2, 9, 30, 44):
        ground = surrounded(small_index.tiles[number], seed=910 + number)
        image = ground[32:160, 32:160]  # twice the model's field
        fix = localizer.localize(image, view="drone", heading_deg=0.0)
        assert "extent_m" in fix.assumed
        found += fix.matches[0].tile_id == small_index.tile_ids[number]
        other = first.localize(image, view="drone", heading_deg=0.0)
        lost += other.matches[0].tile_id != small_index.tile_ids[number]
        known = localizer.localize(image, view="drone", heading_deg=0.0, extent_m=2 * TILE_M)
        # Twice the field is one of the extents.
        assert [m.tile_id for m in known.matches] == [m.tile_id for m in fix.matches]
        assert "extent_m" not in known.assumed
    assert found == 4
    assert lost >= 2


def test_a_batch_of_known_and_unknown_extents_keeps_its_order(localizer, small_index):
    photos = [
        photo(small_index.tiles[5], view="drone", heading_deg=0.0),
        photo(small_index.panoramas[6], view="panorama", heading_deg=0.0),
        photo(small_index.tiles[7], view="drone", heading_deg=0.0, extent_m=TILE_M),
        photo(small_index.tiles[8], view="drone"),
    ]
    fixes = localizer.localize_batch(photos)
    assert [fix.matches[0].tile_id for fix in fixes] == [small_index.tile_ids[n] for n in (5, 6, 7, 8)]


def test_extents_go_from_the_field_to_four_times_it() -> None:
    assert extents_to_try(50.0, 1) == [50.0]
    np.testing.assert_allclose(extents_to_try(50.0, 5), 50.0 * 2 ** np.array([0, 0.5, 1, 1.5, 2]))


def test_altitude_gives_the_extent() -> None:
    one = photo(np.zeros((60, 80, 3), np.uint8), altitude_m=100.0, fov_deg=60.0)
    assert one.view == "drone"
    assert one.image.shape == (60, 60, 3)
    assert one.extent_m == pytest.approx(2 * 100.0 * math.tan(math.radians(30)) * 60 / 80)
    assert one.assumed == ("heading_deg", "pitch_deg")
    scaleless = photo(np.zeros((60, 80, 3), np.uint8), pitch_deg=60.0, fov_deg=60.0)
    assert scaleless.extent_m is None
    assert scaleless.assumed == ("extent_m", "heading_deg")


def test_tags_count_only_where_they_are_allowed() -> None:
    facts = PhotoFacts(drone=DroneTags(altitude_m=80.0, pitch_deg=55.0, yaw_deg=-20.0, fov_deg=70.0))
    image = np.zeros((60, 80, 3), np.uint8)
    refused = photo(image, view="drone", facts=facts)
    assert (refused.heading_deg, refused.extent_m, refused.image.shape) == (None, None, (60, 80, 3))
    allowed = photo(image, view="drone", drone_tags=True, facts=facts)
    assert allowed.heading_deg == 340.0
    assert allowed.fov_deg == 70.0
    by_hand = photo(image, altitude_m=80.0, pitch_deg=55.0, fov_deg=70.0)
    assert allowed.extent_m == by_hand.extent_m
    given = photo(image, altitude_m=160.0, heading_deg=5.0, drone_tags=True, facts=facts)
    assert given.extent_m == pytest.approx(2 * allowed.extent_m)
    assert given.heading_deg == 5.0
    assert photo(image, view="street", drone_tags=True, facts=facts).heading_deg is None


@pytest.mark.parametrize(("given", "reason"), [
    ({"altitude_m": -5.0, "fov_deg": 60.0}, "bad_altitude"),
    ({"altitude_m": math.nan, "fov_deg": 60.0}, "bad_altitude"),
    ({"altitude_m": 100.0}, "bad_fov"),
    ({"pitch_deg": 5.0, "fov_deg": 60.0}, "bad_pitch"),
    ({"pitch_deg": 100.0, "fov_deg": 60.0}, "bad_pitch"),
])  # fmt: skip
def test_what_no_drone_flies_is_refused(given, reason) -> None:
    with pytest.raises(QueryError) as caught:
        photo(np.zeros((60, 80, 3), np.uint8), view="drone", **given)
    assert caught.value.reason == reason
