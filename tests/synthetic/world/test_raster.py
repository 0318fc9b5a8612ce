from __future__ import annotations

from dataclasses import fields

import numpy as np

from geoloc.synthetic.world.raster import City, Layers, Window


def _same(one: Layers, two: Layers) -> None:
    for item in fields(Layers):
        if item.name != "building":  # rows in the window's table; compared by id
            np.testing.assert_array_equal(getattr(one, item.name), getattr(two, item.name), err_msg=item.name)


def _ids(window: Window) -> np.ndarray:
    table = np.append(window.table["id"], np.uint32(0))
    return np.asarray(table[window.layers.building])


def test_a_window_does_not_depend_on_what_was_rendered_before(city: City, window: Window) -> None:
    other = City(seed=11)
    other.window((200.0, 300.0, 260.0, 420.0))
    part = other.window((-40.0, -20.0, 100.0, 150.0))
    rows, columns = part.layers.material.shape
    top, left = window.north_px - part.north_px, part.west_px - window.west_px
    cut = Layers(**{
        f.name: getattr(window.layers, f.name)[top : top + rows, left : left + columns] for f in fields(Layers)
    })  # fmt: skip
    _same(part.layers, cut)
    np.testing.assert_array_equal(_ids(part), _ids(window)[top : top + rows, left : left + columns])


def test_a_small_cache_changes_nothing_and_stays_small(window: Window) -> None:
    small = City(seed=11, chunks=2)
    again = small.window(window.bounds)
    _same(again.layers, window.layers)
    np.testing.assert_array_equal(_ids(again), _ids(window))
    assert len(small._chunks) == 2
    assert len(small._blocks) <= 32


def test_bounds_are_whole_pixels_around_what_was_asked(city: City) -> None:
    window = city.window((0.1, 0.1, 10.1, 5.0))
    assert window.layers.material.shape == (13, 26)
    np.testing.assert_allclose(window.bounds, (0.0, 0.0, 10.4, 5.2))


def test_building_centres_lie_on_their_own_pixels(window: Window) -> None:
    west, _, _, north = window.bounds
    ids = _ids(window)
    tall = window.layers.height_cm
    checked = 0
    for row in window.table:
        c, r = int((row["x"] - west) / 0.4), int((north - row["y"]) / 0.4)
        if not (0 <= c < ids.shape[1] and 0 <= r < ids.shape[0]) or ids[r, c] != row["id"]:
            continue  # off the window, or under a taller neighbour
        assert abs(tall[r, c] / 100 - row["wall_m"] - row["gable_m"]) < 1.6
        checked += 1
    assert checked > 60


def test_every_building_pixel_is_inside_its_rectangle(window: Window) -> None:
    west, _, _, north_m = window.bounds
    r, c = np.nonzero(window.layers.building >= 0)
    row = window.table[window.layers.building[r, c]]
    east, north = west + (c + 0.5) * 0.4 - row["x"], north_m - (r + 0.5) * 0.4 - row["y"]
    u = east * row["cos"] + north * row["sin"]
    v = north * row["cos"] - east * row["sin"]
    assert (np.abs(u) - row["half_u"]).max() < 0.8  # two pixels: outlines are painted on whole ones
    assert (np.abs(v) - row["half_v"]).max() < 0.8
