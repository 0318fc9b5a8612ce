from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from geoloc.training.comparison.aerial_views import AerialView, HeadingScores
from geoloc.training.comparison.draw import TitledView, draw_heading_scores, draw_place
from geoloc.training.heading_and_fov import ProtocolPhotos

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def filled(colour: tuple[int, int, int], height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def opened(data: bytes) -> npt.NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def share_of(image: npt.NDArray[np.uint8], colour: tuple[int, int, int], tolerance: int = 20) -> float:
    return float((np.abs(image.astype(int) - colour).max(-1) <= tolerance).mean())


def test_a_place_shows_its_panorama_its_tile_and_what_is_seen() -> None:
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 64), np.linspace(-0.5, 0.5, 16)), axis=-1)
    views = [
        TitledView(
            "seen",
            AerialView(
                np.stack([filled(BLUE, 16, 64), filled((0, 0, 0), 16, 64)]),
                np.stack([grid, grid]),
                np.zeros((2, 0, 2)),
            ),
            azimuth=True,
        )
    ]
    drawn = opened(draw_place(filled(RED, 16, 64), filled(GREEN, 32, 32), views, 0))
    # Strips are four times as wide as high, tiles squares; the sight is that of the place asked for.
    assert 0.3 < share_of(drawn, RED) < 0.45
    assert 0.3 < share_of(drawn, BLUE) < 0.45
    assert 0.05 < share_of(drawn, GREEN) < 0.15
    assert share_of(drawn[: len(drawn) // 2], BLUE) == 0
    red, green, blue = drawn[len(drawn) // 2 :].astype(int).transpose(2, 0, 1)
    yellow = np.argwhere((red > 150) & (green > 150) & (blue < 110))
    assert len(yellow) > 20  # the edge that becomes the top
    assert np.ptp(np.quantile(yellow[:, 0], [0.1, 0.9])) < 8
    other = opened(draw_place(filled(RED, 16, 64), filled(GREEN, 32, 32), views, 1))
    assert share_of(other, BLUE) == 0


def test_a_compass_has_north_up_and_turns_clockwise() -> None:
    scores = np.full((1, 8), -0.39)
    shown = ProtocolPhotos(filled(BLUE, 16, 64)[None], np.ones((1, 64), bool), np.array([90.0]))
    drawn = opened(draw_heading_scores({"a": HeadingScores(shown, scores, scores, np.array([180.0]))}))
    red, strong, blue = drawn.astype(int).transpose(2, 0, 1)
    green = np.argwhere(strong - np.maximum(red, blue) > 30)
    middle = drawn.shape[1] / 2
    assert len(green) > 50
    assert green[:, 1].mean() > middle + 10  # a heading of 90 degrees points to the right
    assert np.ptp(green[:, 0]) < 8
