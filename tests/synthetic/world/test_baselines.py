"""Matches that must fail: a photo must not be matched by what says nothing about the place.

Each baseline gets all 1,000 test tiles of a city and all 1,000 photos, and the photos again with other looks: a
guess is right once in any gallery, so the mean over looks is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from geoloc.core.images import decode_image
from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera, jpeg, jpeg_quality
from geoloc.synthetic.world.districts import District, DistrictSettings, plan_districts
from geoloc.synthetic.world.export import work_bounds
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.view_conditions import flight_look, photo_look

PAIRS = 1000
LIMIT = 3
"""Three times chance: hits of 1,000 photos."""
CAMERA = Camera(supersampling=1)
Feature = Callable[[np.ndarray], np.ndarray]


class Pairs(NamedTuple):
    """Tiles uint8[N, 128, 128, 3], photos of each look uint8[L, N, 64, 256, 3], the tile of each photo, bytes."""

    tiles: np.ndarray
    photos: np.ndarray
    truth: np.ndarray
    tile_bytes: np.ndarray
    photo_bytes: np.ndarray


def take_pairs(looks: int) -> Pairs:
    """All tiles and photos of a test district of 1,000."""
    city = City(seed=7, chunks=40)
    wanted = DistrictSettings(
        train_photos=1, validation_photos=1, test_photos=PAIRS, distractors=0, anywhere_photos=0
    )
    district = plan_districts(city, wanted)[2]
    tiles = np.zeros((PAIRS, 128, 128, 3), np.uint8)
    photos = np.zeros((looks, PAIRS, 64, 256, 3), np.uint8)
    photo_bytes = np.zeros((looks, PAIRS))
    for sheet in sorted(district.sheets, key=lambda s: (s.row, -s.column if s.row % 2 else s.column)):
        window = city.window(work_bounds(sheet))
        cut_tiles(city, district, sheet.bounds, window, tiles)
        for n, photo in enumerate(district.photos):
            if not (
                sheet.bounds[0] <= photo.x < sheet.bounds[2] and sheet.bounds[1] <= photo.y < sheet.bounds[3]
            ):
                continue
            for k in range(looks):
                look = photo_look(city.seed + 1000 * k, *photo.key)
                picture = render_panorama(city, (photo.x, photo.y), look, CAMERA, window=window)
                data = jpeg(picture, jpeg_quality(look.seed))
                photos[k, n], photo_bytes[k, n] = decode_image(data), len(data)
    centres = np.array([centre[1:] for centre in district.centres])
    truth = np.array([np.hypot(*(centres - (p.x, p.y)).T).argmin() for p in district.photos])
    return Pairs(tiles, photos, truth, np.array([len(jpeg(tile, 85)) for tile in tiles], float), photo_bytes)


def cut_tiles(
    city: City, district: District, bounds: tuple[float, float, float, float], window: Window, out: np.ndarray
) -> None:
    """The tiles whose centres lie in a sheet, with the look of its flight."""
    west, south, east, north = bounds
    area = (west - 32, south - 32, east + 32, north + 32)
    look = flight_look(city.seed, int(south // 1024), int(west // 4096))
    image = render_aerial(city, area, look=look, window=window)
    for n, (_, x, y) in enumerate(district.centres):
        if west <= x < east and south <= y < north:
            r, c = int((area[3] - y) / 0.4), int((x - area[0]) / 0.4)
            out[n] = image[r - 64 : r + 64, c - 64 : c + 64]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return take_pairs(looks=2)


def hits(scores: np.ndarray, truth: np.ndarray) -> float:
    """Photos whose own tile scores best, a tie counted as one of so many."""
    own = scores[np.arange(len(truth)), truth][:, None]
    return float((((scores > own).sum(1) == 0) / (scores == own).sum(1)).sum())


def closeness(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Negative distance after each side is standardised, so that a change of light in all photos is undone."""
    a, b = ((v - v.mean(0)) / (v.std(0) + 1e-9) for v in (queries, references))
    return np.asarray(2 * a @ b.T - (a**2).sum(1)[:, None] - (b**2).sum(1))


def overlap(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Intersection of histograms."""
    total = np.zeros((len(queries), len(references)))
    for a, b in zip(queries.T, references.T, strict=True):
        total += np.minimum(a[:, None], b)
    return total


def mean_colour(pictures: np.ndarray) -> np.ndarray:
    return np.asarray(pictures.reshape(len(pictures), -1, 3).mean(1))


def tint(pictures: np.ndarray) -> np.ndarray:
    mean = mean_colour(pictures)
    return np.asarray(mean / mean.sum(1, keepdims=True))


def brightness(pictures: np.ndarray) -> np.ndarray:
    """Features of the time of day: the light of the picture and of its upper half."""
    upper = pictures[:, : pictures.shape[1] // 2]
    return np.stack([part.reshape(len(part), -1).mean(1) for part in (pictures, upper)], -1)


def histogram(pictures: np.ndarray) -> np.ndarray:
    level = pictures // 64
    colour = (level[..., 0] * 16 + level[..., 1] * 4 + level[..., 2]).reshape(len(pictures), -1)
    return np.stack([np.bincount(row, minlength=64) / len(row) for row in colour])


def mean_hits(pairs: Pairs, feature: Feature, score: Callable[..., np.ndarray] = closeness) -> float:
    """Hits over all looks, of the whole photo and of its ground alone, whichever does better."""
    tiles = feature(pairs.tiles)
    parts = (slice(None), slice(32, None))
    found = [
        [hits(score(feature(photos[:, part]), tiles), pairs.truth) for photos in pairs.photos]
        for part in parts
    ]
    return float(np.mean(found, axis=1).max())


@pytest.mark.parametrize("feature", [mean_colour, tint, brightness, histogram])
def test_colour_and_light_fail(pairs: Pairs, feature: Feature) -> None:
    assert mean_hits(pairs, feature) < LIMIT


def test_overlap_of_histograms_fails(pairs: Pairs) -> None:
    assert mean_hits(pairs, histogram, overlap) < LIMIT


def test_file_size_fails(pairs: Pairs) -> None:
    tiles = pairs.tile_bytes[:, None]
    assert np.mean([hits(closeness(s[:, None], tiles), pairs.truth) for s in pairs.photo_bytes]) < LIMIT


def test_order_of_the_tables_fails(pairs: Pairs) -> None:
    order = np.arange(PAIRS, dtype=float)[:, None]
    assert hits(closeness(order, order), pairs.truth) < LIMIT


def test_the_referee_would_see_a_match(pairs: Pairs) -> None:
    means = mean_colour(pairs.tiles)
    assert hits(closeness(means[pairs.truth], means), pairs.truth) > 990
    random = np.random.default_rng(1).random((PAIRS, PAIRS))
    assert hits(random, pairs.truth) < 5


@pytest.mark.slow
def test_colour_fails_with_eight_looks() -> None:
    """The same with more looks: what the mean of two may hide."""
    pairs = take_pairs(looks=8)
    for feature in (mean_colour, tint, brightness, histogram):
        assert mean_hits(pairs, feature) < LIMIT
    assert mean_hits(pairs, histogram, overlap) < LIMIT
