from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.block_layouts import lay_out
from geoloc.synthetic.world.buildings import HOUSE
from geoloc.synthetic.world.network import Network
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.style import STYLES, Style, style_named
from geoloc.synthetic.world.zones import quarter_index


def test_the_default_is_the_plain_style_and_others_differ() -> None:
    assert style_named("default") == Style()
    assert len({astuple(style) for style in STYLES.values()}) == len(STYLES) >= 2
    with pytest.raises(ConfigError, match=r"no city style 'atlantis'; take one of default, harbour"):
        style_named("atlantis")


def test_cities_of_different_styles_do_not_overlap_on_earth() -> None:
    begins = sorted(style.east_m for style in STYLES.values())
    assert np.diff(begins).min() >= 40_000
    assert all(begin % 4096 == 0 for begin in begins)  # whole sheets and flights


def test_quarters_are_patches_and_all_four_are_there() -> None:
    for style in STYLES.values():
        x, y = np.meshgrid(np.arange(0, 6000, 60.0), np.arange(0, 6000, 60.0))
        quarter = quarter_index(7, style, x, y)
        assert np.bincount(quarter.ravel(), minlength=4).min() > 0.08 * quarter.size
        assert (quarter[:, 1:] == quarter[:, :-1]).mean() > 0.85


def test_the_second_city_has_other_blocks_heights_and_colours() -> None:
    measured = []
    for style in (Style(), STYLES["harbour"]):
        network = Network(11, style)
        table = np.concatenate([lay_out(network, i, j).buildings for i in range(8) for j in range(8)])
        nodes = network.nodes(np.arange(40)[:, None], np.arange(40)[None])
        block_m = np.hypot(*np.moveaxis(np.diff(nodes, axis=0), -1, 0)).mean()
        measured.append((block_m, table["wall_m"][table["kind"] == HOUSE].mean(), table["facade"].mean()))
    assert measured[1][0] > 1.15 * measured[0][0]
    assert measured[1][1] < 0.95 * measured[0][1]
    assert measured[1][2] > measured[0][2] + 10


def test_a_chunk_of_the_second_city_is_the_same_in_any_order() -> None:
    one, two = (City(5, STYLES["harbour"]) for _ in range(2))
    two.chunk(3, 2)
    for a, b in zip(one.chunk(2, 2), two.chunk(2, 2), strict=True):
        arrays = (a, b) if isinstance(a, np.ndarray) else (a.albedo, b.albedo)
        assert arrays[0].tobytes() == arrays[1].tobytes()
