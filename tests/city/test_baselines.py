"""What must not work: a photo may not be matched by what says nothing about the place."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from geoloc.city.aerial import render_aerial
from geoloc.city.camera import Camera, jpeg
from geoloc.city.districts import Wanted, plan_districts
from geoloc.city.export import render_photo
from geoloc.city.looks import flight_look
from geoloc.city.raster import City

PAIRS = 300
GALLERY = 60
LIMIT = 3 / GALLERY
"""Three times chance in a gallery of 60 tiles."""


class Pairs(NamedTuple):
    """Tiles and photos in the order of their tables, the true tile of each photo, the photos' file sizes."""

    tiles: list[np.ndarray]
    photos: list[np.ndarray]
    truth: list[int]
    sizes: list[int]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    city = City(seed=11)
    district = plan_districts(
        city, Wanted(train_photos=PAIRS, validation_photos=1, test_photos=1, distractors=0)
    )[0]
    west, south, east, north = district.bounds
    window = city.window((west - 130, south - 130, east + 130, north + 130))
    area = render_aerial(city, district.bounds, look=flight_look(city.seed, 0), window=window)
    tiles = []
    for _, x, y in district.centres:
        r, c = int((north - y) / 0.4), int((x - west) / 0.4)
        tiles.append(area[r - 64 : r + 64, c - 64 : c + 64])
    files = [render_photo(city, photo, Camera(supersampling=1), window) for photo in district.photos]
    photos = [np.asarray(Image.open(io.BytesIO(data))) for data in files]
    centres = np.array([centre[1:] for centre in district.centres])
    truth = [int(np.hypot(*(centres - (photo.x, photo.y)).T).argmin()) for photo in district.photos]
    return Pairs(tiles, photos, truth, [len(data) for data in files])


def recall(scores: np.ndarray, truth: list[int]) -> float:
    """R@1 of scores [photos, tiles], a tie counted as its mean rank would be.

    A guess is right once in any gallery, however large, so one gallery says little: this is the mean over
    many random galleries of `GALLERY` photos and their tiles.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        photos = rng.permutation(len(truth))[:GALLERY]
        part = scores[np.ix_(photos, np.asarray(truth)[photos])]
        own = part.diagonal()[:, None]
        found.append(((part > own).sum(1) == 0) / (part == own).sum(1))
    return float(np.mean(found))


def closeness(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Negative distance after each side is standardised, so that a change of light in all photos is undone."""
    a, b = ((v - v.mean(0)) / (v.std(0) + 1e-9) for v in (queries, references))
    return np.asarray(-((a[:, None] - b[None]) ** 2).sum(-1))


def histogram(picture: np.ndarray) -> np.ndarray:
    counts = np.histogramdd(picture.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0].ravel()
    return np.asarray(counts / counts.sum())


def test_mean_colour_fails(pairs: Pairs) -> None:
    tiles, photos, truth, _ = pairs
    means = [np.array([p.reshape(-1, 3).mean(0) for p in side]) for side in (photos, tiles)]
    assert recall(closeness(*means), truth) < LIMIT
    lower = np.array([p[32:].reshape(-1, 3).mean(0) for p in photos])
    assert recall(closeness(lower, means[1]), truth) < LIMIT


def test_colour_histogram_fails(
    pairs: Pairs,
) -> None:
    tiles, photos, truth, _ = pairs
    sides = [np.array([histogram(p) for p in side]) for side in (photos, tiles)]
    overlap = np.minimum(sides[0][:, None], sides[1][None]).sum(-1)
    assert recall(overlap, truth) < LIMIT
    assert recall(closeness(*sides), truth) < LIMIT


def test_file_size_fails(pairs: Pairs) -> None:
    tiles, _, truth, sizes = pairs
    photo_sizes = np.array(sizes, float)[:, None]
    tile_sizes = np.array([len(jpeg(tile, 85)) for tile in tiles], float)[:, None]
    assert recall(closeness(photo_sizes, tile_sizes), truth) < LIMIT


def test_order_of_the_tables_fails(
    pairs: Pairs,
) -> None:
    tiles, _, truth, _ = pairs
    order = np.arange(len(tiles), dtype=float)[:, None]
    assert recall(closeness(order, order), truth) < LIMIT


def test_the_referee_would_see_a_match(
    pairs: Pairs,
) -> None:
    tiles, _, truth, _ = pairs
    means = np.array([tile.reshape(-1, 3).mean(0) for tile in tiles])
    assert recall(closeness(means[truth], means), truth) > 0.99
    assert 0.3 / GALLERY < recall(np.random.default_rng(1).random((PAIRS, PAIRS)), truth) < 2 / GALLERY
