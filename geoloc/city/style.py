"""What may differ from city to city: sizes, frequencies and the mix of quarters."""

from __future__ import annotations

from dataclasses import dataclass

PIXEL_M = 0.4
CHUNK_M = 256.0
CHUNK_PX = 640
MAX_HEIGHT_M = 60.0
VIEW_RANGE_M = 130.0


@dataclass(frozen=True)
class Style:
    """Parameters of a city. Metres throughout; shares are probabilities.

    Quarter limits cut a smooth noise in [0, 1] into works, houses, terraces and towers, in that order.
    """

    block_m: float = 96.0
    line_jitter: float = 0.24
    node_jitter_m: float = 7.0
    warp_m: float = 70.0
    warp_scale_m: float = 620.0
    closed_street_share: float = 0.14
    avenue_share: float = 0.10
    cross_avenue_share: float = 0.06
    pavement_m: float = 2.6
    quarter_limits: tuple[float, float, float] = (0.27, 0.53, 0.72)
    park_share: float = 0.07
    parking_share: float = 0.04
    sport_share: float = 0.025
    river_width: float = 0.006
    river_level: float = 0.56

    @property
    def reach_m(self) -> float:
        """How far a street node may lie from its place in the regular grid."""
        return self.line_jitter * self.block_m + self.node_jitter_m + self.warp_m
