"""Pictures of no place: the same for the same number, of many kinds, none of them a plain surface."""

from __future__ import annotations

import numpy as np

from geoloc.localization.no_place import KINDS, no_place_picture


def test_pictures_differ_by_number_and_are_the_same_again() -> None:
    pictures = [no_place_picture(number, 32, 64) for number in range(2 * len(KINDS))]
    assert all(picture.shape == (32, 64, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    np.testing.assert_array_equal(pictures[3], no_place_picture(3, 32, 64))
    assert (no_place_picture(3, 32, 64, seed=1) != pictures[3]).any()


def test_no_picture_is_plain() -> None:
    for number in range(5 * len(KINDS)):
        assert no_place_picture(number, 64, 128).std() > 1.5
