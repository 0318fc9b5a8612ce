from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.synthetic.world.noise import hash_array, hash_int, mottle, noise_raster, uniform, value_noise

integers = st.integers(-(2**31), 2**31 - 1)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32), st.lists(integers, min_size=1, max_size=4))
def test_one_value_and_arrays_hash_alike(seed: int, keys: list[int]) -> None:
    assert int(hash_array(seed, *keys)) == hash_int(seed, *keys)


def test_hash_of_an_array_is_the_hash_of_its_elements() -> None:
    i, j = np.arange(-5, 6)[:, None], np.arange(-3, 4)[None]
    whole = hash_array(3, i, j)
    assert whole.shape == (11, 7)
    assert all(int(whole[a, b]) == hash_int(3, a - 5, b - 3) for a in range(11) for b in range(7))


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    draw = uniform(1, np.arange(20_000), 5)
    assert draw.min() >= 0
    assert draw.max() < 1
    counts = np.histogram(draw, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 160  # five standard deviations of a bin


def test_neighbouring_seeds_and_keys_are_unrelated() -> None:
    n = np.arange(20_000)
    pairs = [
        (uniform(1, n), uniform(2, n)),
        (uniform(1, n), uniform(1, n + 1)),
        (uniform(1, n, 0), uniform(1, n, 1)),
    ]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.04


def test_noise_raster_is_value_noise_at_pixel_centres_north_up() -> None:
    size, step = 40, 0.4
    raster = noise_raster(-7.2, 30.4, size, step, 5.0, seed=9)
    x = -7.2 + (np.arange(size) + 0.5) * step
    y = 30.4 + (np.arange(size)[::-1] + 0.5) * step
    np.testing.assert_allclose(raster, value_noise(x[None, :], y[:, None], 5.0, 9), atol=1e-5)


def test_mottle_repeats_without_a_seam() -> None:
    tile = mottle(64, 8, 3)
    inside = np.abs(np.diff(tile, axis=0)).max()
    assert np.abs(tile[0] - tile[-1]).max() <= inside
    assert np.abs(tile).max() <= 0.5
