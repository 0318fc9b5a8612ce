"""Colours of what stands on the ground in a panorama: walls with windows and shops, roofs, hedges, posts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoloc.city.buildings import HOUSE, TERRACE, TOWER, WORKS, Buildings
from geoloc.city.noise import Float, hash_array
from geoloc.city.scene import Scene, spread

Index = NDArray[np.int64]


def shade_obstacles(scene: Scene, column: Index, step: Index, first: Index, count: Index) -> None:
    """Paint what each hit (column, step) shows in the rows first .. first + count, and set the depth there."""
    shown = count > 0
    column, step, first, count = column[shown], step[shown], first[shown], count[shown]
    pixel = scene.pixel[column, step]
    layers = scene.window.layers
    row_of_table = layers.building.ravel()[pixel]
    distance = scene.rays.distance_m[step]
    wall = row_of_table >= 0
    table = scene.window.table[row_of_table[wall]]
    exact = distance.copy()
    exact[wall], along, light = _cut(scene, table, column[wall], distance[wall])
    run, row = spread(count, first)
    target = row * scene.columns + column[run]
    z = np.float32(scene.camera.camera_m) + exact[run] * scene.rays.tangent[row]
    gain = scene.look.ground_gain[layers.material.ravel()[pixel]]
    base = layers.albedo.reshape(-1, 3)[pixel].astype(np.float32)
    base *= np.where(wall[:, None], np.float32(0.95), gain)
    high = np.maximum(layers.height_cm.ravel()[pixel] * np.float32(0.01), 0.3)
    colour = base[run] * np.where(wall, np.float32(1), 0.0)[run, None]
    low = np.nonzero(~wall[run])[0]
    colour[low] = base[run[low]] * (0.62 + 0.38 * np.clip(z[low] / high[run[low]], 0, 1))[:, None]
    place = np.cumsum(wall) - 1
    of_wall = np.nonzero(wall[run])[0]
    which = place[run[of_wall]]
    facade = z[of_wall] < table["wall_m"][which] + 0.05
    of_wall, which = of_wall[facade], which[facade]
    colour[of_wall] = _facade(table, which, along[which], z[of_wall], light[which])
    scene.colour[target] = colour
    scene.depth.ravel()[target] = exact[run]


def _cut(scene: Scene, table: Buildings, column: Index, distance: Float) -> tuple[Float, Float, Float]:
    """Where rays enter the buildings' rectangles: distance in metres, metres along the wall, brightness of the wall.

    The march only finds the wall to within a step; where the cut disagrees by more the march is kept.
    """
    east = (scene.x - table["x"]).astype(np.float32)
    north = (scene.y - table["y"]).astype(np.float32)
    sin, cos = scene.sin[column], scene.cos[column]
    u, v = east * table["cos"] + north * table["sin"], north * table["cos"] - east * table["sin"]
    du, dv = sin * table["cos"] + cos * table["sin"], cos * table["cos"] - sin * table["sin"]
    du, dv = (np.where(np.abs(d) < 1e-5, np.float32(1e-5), d) for d in (du, dv))
    enter_u, enter_v = (-np.sign(du) * table["half_u"] - u) / du, (-np.sign(dv) * table["half_v"] - v) / dv
    through_u = enter_u > enter_v
    enter = np.where(through_u, enter_u, enter_v)
    exact = np.where(np.abs(enter - distance) < 0.8 + 0.012 * distance, enter, distance)
    along = np.where(through_u, v + exact * dv, u + exact * du)
    face_east = np.where(through_u, -np.sign(du) * table["cos"], np.sign(dv) * table["sin"])
    face_north = np.where(through_u, -np.sign(du) * table["sin"], -np.sign(dv) * table["cos"])
    sun = np.radians(scene.look.sun_azimuth_deg)
    lit = np.maximum(0, face_east * np.sin(sun) + face_north * np.cos(sun))
    light = (0.7 + 0.34 * lit).astype(np.float32)
    return exact.astype(np.float32), along.astype(np.float32), light


def _facade(table: Buildings, which: Index, along: Float, z: Float, light: Float) -> Float:
    """Colour of wall points: windows, doors, shops, bands and plinths: float32[N, 3]."""
    at = {
        name: table[name][which] for name in ("storey_m", "bay_m", "window", "phase", "kind", "wall_m", "id")
    }
    bay = along / at["bay_m"] + at["phase"]
    storey = z / at["storey_m"]
    across, up = bay - np.floor(bay), storey - np.floor(storey)
    kind, glass = at["kind"], at["window"]
    ground = storey < 1
    wide = np.abs(across - 0.5) < glass / 2
    window = wide & (up > 0.28) & (up < 0.38 + 0.55 * glass) & (z < at["wall_m"] - 0.35)
    window &= (kind != WORKS) | (z > 3)
    tower = (kind == TOWER) & (at["phase"] > 0.6)  # bands of glass instead of single windows
    window |= tower & (up > 0.3) & ~ground & (z < at["wall_m"] - 0.5)
    shop = (
        ground
        & ((kind == TERRACE) | (kind == TOWER))
        & (np.abs(across - 0.5) < 0.42)
        & (up > 0.12)
        & (up < 0.8)
    )
    pick = hash_array(91, at["id"], np.floor(bay), np.floor(storey))
    draw = (pick >> np.uint32(24)).astype(np.float32) / 255
    door = ground & (kind == HOUSE) & (draw < 0.25) & (np.abs(across - 0.5) < 0.2) & (up < 0.72)
    base = table["facade"][which] * light[:, None]
    trim = (
        (up < 0.06)
        | (ground & (at["phase"] < 0.45) & (kind != WORKS))
        | ((kind == WORKS) & (z > at["wall_m"] - 1.2))
    )
    base = np.where(trim[:, None], table["trim"][which] * light[:, None], base)
    pane = np.stack([46 + 66 * draw, 58 + 70 * draw, 74 + 76 * draw], -1)
    base = np.where((window | shop)[:, None], pane, base)
    return np.asarray(np.where(door[:, None], table["trim"][which] * np.float32(0.6), base), np.float32)
