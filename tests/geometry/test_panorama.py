from __future__ import annotations

import numpy as np
import torch

from geoloc.geometry.azimuth import shown_columns
from geoloc.geometry.panorama import (
    columns_of_view,
    limit_rows,
    limit_view,
    shown_pixels,
    turn_panorama,
)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (1, 2, height, width)))


def test_a_turn_rolls_to_the_left_and_the_mirror_flips_what_is_then_seen() -> None:
    images = picture(6, 16).permute(0, 2, 3, 1).expand(3, -1, -1, -1)
    got = turn_panorama(images, torch.tensor([5, 0, 21]), torch.tensor([False, True, True]))
    turned = images[0].roll(-5, 1)
    torch.testing.assert_close(got, torch.stack([turned, images[0].flip(1), turned.flip(1)]))
    torch.testing.assert_close(turn_panorama(images[:1], torch.tensor([5])), got[:1])


def test_a_limited_view_keeps_columns_where_they_are() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8)[None, None, :, None].expand(3, 2, 8, 3)
    got = limit_view(images, torch.tensor([0, 6, 3]), torch.tensor([2, 4, 8]))
    assert got.dtype == torch.uint8
    assert got[:, 1, :, 2].tolist() == [[1, 2, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 7, 8], list(range(1, 9))]


def test_columns_of_a_view_are_the_published_number() -> None:
    assert [columns_of_view(fov, 616) for fov in (360, 180, 90, 70)] == [616, 308, 154, 119]
    assert columns_of_view(0.1, 64) == 1


def test_shown_columns_are_those_of_which_half_is_left() -> None:
    first, kept = torch.tensor([0, 6, 13, 2, 0]), torch.tensor([6, 8, 7, 1, 16])
    white = torch.ones(5, 1, 16, 1)
    left = limit_view(white, first, kept)[:, 0, :, 0].view(5, 4, 4).sum(-1)
    got = shown_columns(shown_pixels(first, kept, 16), 4)
    want = left >= 2
    want[3] = left[3] == 1  # narrower than half a column: the fullest one
    assert got.tolist() == want.tolist()
    assert got[0].tolist() == [True, True, False, False]
    assert got[4].all()


def test_rows_outside_the_kept_height_are_black() -> None:
    images = torch.ones(2, 8, 4, 3, dtype=torch.uint8)
    got = limit_rows(images, torch.tensor([0.25, 0.0]), torch.tensor([0.75, 1.0]))
    assert got[0, :, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert torch.equal(got[1], images[1])
