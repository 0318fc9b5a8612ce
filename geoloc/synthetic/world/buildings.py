"""The table of buildings, and random colours, storeys and windows for many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import BoolArray, FloatArray, IntArray

HOUSE, TERRACE, TOWER, WORKS = range(4)

BUILDING = np.dtype(
    [
        ("id", np.uint32),  # hash of the block and the number in it: stable whatever is made first
        ("x", np.float64),  # centre in city metres; in full so that every window computes the same from it
        ("y", np.float64),
        ("cos", np.float32),  # direction of the u axis, counter-clockwise from east
        ("sin", np.float32),
        ("half_u", np.float32),
        ("half_v", np.float32),
        ("wall_m", np.float32),  # height of the eaves
        ("gable_m", np.float32),  # height of the ridge above the eaves, 0 for a flat roof
        ("facade", np.float32, (3,)),
        ("roof", np.float32, (3,)),
        ("trim", np.float32, (3,)),  # ground floor, bands and corners
        ("storey_m", np.float32),
        ("bay_m", np.float32),
        ("window", np.float32),  # share of a bay that is glass
        ("phase", np.float32),
        ("kind", np.uint8),
    ]
)
Buildings = NDArray[Any]
"""A structured array of `BUILDING`: [N]."""

Colours = list[tuple[int, int, int]]
_BRICK_ROOFS: dict[int, Colours] = {
    HOUSE: [
        (156, 70, 54),
        (122, 60, 50),
        (92, 84, 80),
        (66, 66, 72),
        (172, 112, 80),
        (130, 122, 112),
        (98, 44, 40),
    ],
    TERRACE: [
        (160, 150, 140),
        (118, 112, 108),
        (188, 184, 176),
        (146, 78, 62),
        (92, 98, 104),
        (86, 120, 104),
    ],
    TOWER: [(192, 192, 190), (128, 134, 140), (82, 86, 92), (212, 208, 200), (150, 140, 128), (104, 124, 92)],
    WORKS: [
        (202, 206, 208),
        (146, 168, 184),
        (176, 176, 166),
        (118, 132, 154),
        (208, 196, 168),
        (150, 92, 82),
    ],
}
_BRICK_FACADES: Colours = [
    (198, 182, 150), (172, 94, 72), (218, 208, 190), (150, 140, 130), (190, 150, 108), (118, 124, 132),
    (204, 168, 158), (158, 172, 184), (226, 216, 176), (108, 82, 68), (150, 60, 52), (232, 230, 224),
    (132, 152, 120), (96, 110, 134), (222, 176, 92), (176, 136, 150),
]  # fmt: skip
_STUCCO_ROOFS: dict[int, Colours] = {
    HOUSE: [(196, 120, 84), (178, 98, 66), (206, 146, 108), (88, 92, 98), (214, 206, 196), (70, 84, 96)],
    TERRACE: [(186, 108, 76), (204, 132, 92), (96, 104, 112), (226, 220, 210), (128, 92, 78)],
    TOWER: [(220, 222, 222), (98, 106, 116), (60, 66, 74), (170, 178, 180), (196, 186, 170)],
    WORKS: [(92, 112, 132), (132, 140, 142), (176, 92, 62), (210, 212, 206), (72, 96, 88)],
}
_STUCCO_FACADES: Colours = [
    (240, 236, 226), (236, 214, 170), (226, 190, 150), (206, 214, 220), (232, 168, 130), (180, 200, 190),
    (244, 226, 190), (160, 176, 196), (214, 150, 120), (120, 112, 104), (248, 244, 236), (196, 120, 96),
]  # fmt: skip
PALETTES = {"brick": (_BRICK_ROOFS, _BRICK_FACADES), "stucco": (_STUCCO_ROOFS, _STUCCO_FACADES)}
"""Colours of roofs by kind of building, and of walls."""


def _pick(rng: np.random.Generator, palette: Colours, count: int) -> FloatArray:
    """Colours of a palette with a brightness and a tint of their own: float64[count, 3]."""
    colour = np.asarray(palette, np.float64)[rng.integers(len(palette), size=count)]
    colour = colour * rng.uniform(0.8, 1.14, (count, 1)) + rng.normal(0, 6, (count, 3))
    return np.clip(colour, 20, 250)


def furnish(rng: np.random.Generator, kind: IntArray, flat: BoolArray, palette: str = "brick") -> Buildings:
    """Colours, storeys and windows for buildings of the given kinds: `BUILDING`[N], geometry left at zero.

    `flat` says which roofs are flat: those are grey and pale more often than tiled.
    """
    roofs, facades = PALETTES[palette]
    count = len(kind)
    table = np.zeros(count, BUILDING)
    table["kind"] = kind
    for value, colours in roofs.items():
        of_kind = kind == value
        table["roof"][of_kind] = _pick(rng, colours, int(of_kind.sum()))
    pale = flat & (kind == HOUSE)
    table["roof"][pale] = _pick(rng, roofs[TERRACE], int(pale.sum()))
    kin = rng.random((count, 1)) < 0.5  # built of one stuff: walls and roof go together
    table["facade"] = np.where(kin, 0.6 * table["roof"] + np.array([80, 77, 70]), _pick(rng, facades, count))
    table["trim"] = np.where(rng.random((count, 1)) < 0.5, table["facade"] * 0.72, _pick(rng, facades, count))
    table["storey_m"] = rng.uniform(2.7, 3.7, count)
    table["bay_m"] = rng.uniform(2.0, 4.6, count)
    table["window"] = rng.uniform(0.34, 0.82, count)
    table["phase"] = rng.random(count)
    return table


def corners(table: Buildings) -> FloatArray:
    """Ground-plan corners, counter-clockwise from (-u, -v): float64[N, 4, 2] in city metres.

    Convention: x east, y north; the u axis points (cos, sin), v is 90 degrees to its left.
    """
    u = np.array([-1, 1, 1, -1]) * table["half_u"].astype(np.float64)[:, None]
    v = np.array([-1, -1, 1, 1]) * table["half_v"].astype(np.float64)[:, None]
    cos, sin = table["cos"][:, None], table["sin"][:, None]
    return np.stack([table["x"][:, None] + cos * u - sin * v, table["y"][:, None] + sin * u + cos * v], -1)
