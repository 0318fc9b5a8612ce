from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.caster import CAR, CROWN, GROUND, ROOF, SKY, WALL, Hits, cast, cast_field
from geoloc.synthetic.world.panorama import trace
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.ray_field import build_field, shadow_ceiling
from geoloc.synthetic.world.view_conditions import photo_look
from synthetic.world.scenes import empty_window, plain_look, with_building

EYE = np.array([120.0, 90.0, 2.0])


def fan(count: int, seed: int = 0, low: float = -0.7, high: float = 0.5) -> np.ndarray:
    """Directions all around, with rises between two limits."""
    rng = np.random.default_rng(seed)
    azimuth, rise = rng.uniform(0, 2 * np.pi, count), rng.uniform(low, high, count)
    return np.stack([np.sin(azimuth), np.cos(azimuth), rise], -1)


def same(one: Hits, two: Hits) -> None:
    for name in ("depth", "kind", "normal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def marched(origin: np.ndarray, ahead: np.ndarray, row: np.ndarray, step: float) -> float:
    """Distance to the first sample of a ray inside one building or under the ground, by brute force."""
    t = np.arange(step, 140, step)
    x, y, z = origin[:, None] + ahead[:, None] * t
    u = (x - row["x"]) * row["cos"] + (y - row["y"]) * row["sin"]
    v = (y - row["y"]) * row["cos"] - (x - row["x"]) * row["sin"]
    across = v / row["half_v"] if row["half_u"] >= row["half_v"] else u / row["half_u"]
    inside = (np.abs(u) <= row["half_u"]) & (np.abs(v) <= row["half_v"])
    inside &= z <= row["wall_m"] + row["gable_m"] * (1 - np.abs(across))
    met = np.nonzero(inside | (z <= 0))[0]
    return float(t[met[0]]) if len(met) else np.inf


@pytest.mark.parametrize(("turn", "gable", "half_v"), [(0.0, 0.0, 4.0), (30.0, 3.0, 4.0), (75.0, 2.5, 9.0)])
def test_a_building_is_met_where_brute_force_meets_it(turn: float, gable: float, half_v: float) -> None:
    window = with_building(18.0, 11.0, 6.0, half_v, turn, 8.0)
    window.table["gable_m"] = gable
    for eye in ((0.0, 0.0, 2.0), (-10.0, 30.0, 40.0)):
        origin = np.array(eye)
        aim = np.array([18.0, 11.0, 4.0]) - origin
        directions = aim + np.random.default_rng(3).normal(0, 0.2, (150, 3)) * np.linalg.norm(aim)
        hits = cast(window, origin, directions, plain_look())
        ahead = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        expected = np.array([marched(origin, a, window.table[0], 0.02) for a in ahead])
        near = expected < 120  # the window ends a little farther
        close = np.abs(hits.depth[near] - expected[near]) < 0.03
        assert close.mean() > 0.98  # the rest graze an edge between two samples
        assert {WALL, ROOF, GROUND} <= set(hits.kind.tolist()) | ({ROOF} if eye[2] < 8 else set())
        back = (hits.normal * ahead).sum(1)[hits.kind != SKY]
        assert (back < 0).all()  # every surface faces the eye
        np.testing.assert_allclose(np.linalg.norm(hits.normal[hits.kind != SKY], axis=1), 1, atol=1e-6)


def test_skipping_empty_space_changes_nothing(window: Window) -> None:
    """The pyramid against a walk through every single pixel."""
    field = build_field(window, window.bounds, photo_look(3, 1), (EYE[0], EYE[1]))
    blunt = field._replace(tops=np.full_like(field.tops, 65535))
    for eye, rays in ((EYE, fan(2000)), (EYE + np.array([0, 0, 150]), fan(2000, 1, -3, -0.9))):
        same(cast_field(field, eye, rays, 150.0), cast_field(blunt, eye, rays, 150.0))


def test_a_ray_meets_the_same_in_any_window_and_in_any_company(city: City, window: Window) -> None:
    look, rays = photo_look(3, 1), fan(1500)
    bounds = (EYE[0] - 100, EYE[1] - 100, EYE[0] + 100, EYE[1] + 100)
    whole = cast(window, EYE, rays, look, bounds=bounds, reach_m=95.0)
    same(whole, cast(City(seed=11).window(bounds), EYE, rays, look, bounds=bounds, reach_m=95.0))
    half = cast(window, EYE, rays[::2], look, reach_m=95.0)
    np.testing.assert_array_equal(half.depth, whole.depth[::2])
    assert {SKY, GROUND, WALL, CROWN, CAR} <= set(whole.kind.tolist())


def test_panorama_and_caster_see_the_same_distances(window: Window) -> None:
    """Two renderers that share no code: beyond leaves, 97 % of the rays agree to 0.6 m or 3 %."""
    camera = Camera(height_px=48, width_px=256)
    look = replace(photo_look(3, 1), traffic=0.0)
    for place in ((120.0, 90.0), (60.3, 200.7)):
        _, depth = trace(window, place, look, camera, 0.0)
        azimuth = np.radians((np.arange(512) + 0.5) / 512 * 360 - 180)
        elevation = np.radians(
            camera.top_deg - (np.arange(96) + 0.5) / 96 * (camera.top_deg - camera.bottom_deg)
        )
        a, e = np.meshgrid(azimuth, elevation)
        rays = np.stack([np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)], -1).reshape(-1, 3)
        hits = cast(window, np.array([*place, camera.camera_m]), rays, look, reach_m=128.0)
        flat = hits.depth.reshape(depth.shape) * np.cos(e)  # panoramas measure along the ground
        wooden = hits.kind.reshape(depth.shape) == CROWN
        solid = np.isfinite(flat) & np.isfinite(depth) & ~wooden & (depth < 100)
        agree = np.abs(flat[solid] - depth[solid]) < np.maximum(0.6, 0.03 * depth[solid])
        assert solid.mean() > 0.3
        assert agree.mean() > 0.97
        sky = np.isinf(depth)
        assert (np.isinf(flat) | wooden | (flat > 100))[sky].mean() > 0.97


@pytest.mark.parametrize("azimuth", [20.0, 75.0, 100.0, 160.0, 200.0, 265.0, 340.0])
def test_shadows_fall_away_from_the_sun_at_its_slope(azimuth: float) -> None:
    """The shadow of a post of 12 m: direction and length within a metre, height within 0.6 m, for any sun."""
    window = with_building(0.0, 0.0, 0.6, 0.6, 0.0, 12.0)
    look = plain_look(sun_azimuth_deg=azimuth, sun_elevation_deg=35.0)
    ceiling = shadow_ceiling(window, window.bounds, look)
    r, c = np.nonzero(ceiling > 25)
    x, y = (c + 0.5) * 0.4 - 140, 140 - (r + 0.5) * 0.4
    away = np.radians(azimuth + 180)
    along = x * np.sin(away) + y * np.cos(away)
    aside = x * np.cos(away) - y * np.sin(away)
    assert np.abs(aside).max() < 1.3
    assert abs(along.max() - 12 / np.tan(np.radians(35))) < 1.0
    expected = 12 - along * np.tan(np.radians(35))
    assert np.abs(ceiling[r, c] / 100 - expected).max() < 0.9


def test_a_window_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"The window covers -140 to 140 m east.*make the window larger"):
        build_field(empty_window(), (-150.0, 0.0, 0.0, 10.0), plain_look(), (0.0, 0.0))
