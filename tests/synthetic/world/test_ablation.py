from __future__ import annotations

import numpy as np

from geoloc.synthetic.world.ablation import (
    BASE,
    BUILDINGS,
    GROUND,
    LEFT_OUT,
    MARKINGS,
    SKY,
    TREES,
    blank,
    without,
)
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.panorama import trace
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.view_conditions import photo_look
from synthetic.world.scenes import is_red, plain_look, with_building

CAMERA = Camera(height_px=74, width_px=128, supersampling=1)


def test_only_the_named_layer_changes(window: Window) -> None:
    touched = {
        MARKINGS: {"marking"}, TREES: {"canopy_dm", "under_dm"},
        BUILDINGS: {"building", "height_cm", "albedo"}, BASE: set(), GROUND: set(), SKY: set(),
    }  # fmt: skip
    for what in LEFT_OUT:
        changed = without(window, what)
        different = {
            name
            for name in window.layers.__dataclass_fields__
            if not np.array_equal(getattr(changed.layers, name), getattr(window.layers, name))
        }
        assert different == touched[what]
    fences = (window.layers.building < 0) & (window.layers.height_cm > 0)
    assert fences.any()
    np.testing.assert_array_equal(without(window, BUILDINGS).layers.height_cm > 0, fences)


def test_a_left_out_building_is_not_seen() -> None:
    window = with_building(15.0, 22.0, 6.0, 4.0, 30.0, 9.0)
    shown = [
        trace(part, (0.0, 0.0), plain_look(), CAMERA, 0.0)[0] for part in (window, without(window, BUILDINGS))
    ]
    assert is_red(shown[0]).any()
    assert not is_red(shown[1]).any()


def test_blanking_leaves_the_other_half_as_it_was(window: Window) -> None:
    picture, _ = trace(window, (120.0, 90.0), photo_look(3, 1), CAMERA, 0.0)
    mean = picture.mean((0, 1)).astype(np.uint8)
    sky, ground = blank(picture, CAMERA, SKY), blank(picture, CAMERA, GROUND)
    np.testing.assert_array_equal(sky[32:], picture[32:])  # 32 degrees above the horizon, a degree a row
    np.testing.assert_array_equal(ground[:32], picture[:32])
    assert (sky[:32] == mean).all()
    assert (ground[32:] == mean).all()
    assert blank(picture, CAMERA, TREES) is picture
