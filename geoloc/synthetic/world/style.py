"""Parameters that differ from city to city: sizes, frequencies and the mix of quarters."""

from __future__ import annotations

from dataclasses import dataclass

from geoloc.core.errors import ConfigError

PIXEL_M = 0.4
CHUNK_M = 256.0
CHUNK_PX = 640
MAX_HEIGHT_M = 60.0
VIEW_RANGE_M = 130.0


@dataclass(frozen=True)
class Style:
    """Parameters of a city. Metres throughout; shares are probabilities.

    Quarter limits cut a smooth noise in [0, 1] into works, houses, terraces and towers, in that order; values
    with four entries belong to those quarters. `irregularity` multiplies how far crossings stray from their grid,
    `palette` names the colours of buildings (`buildings.PALETTES`), `low` is the share of their full
    height that buildings have. `east_m` is where its districts begin: cities do not overlap on Earth.
    """

    block_m: float = 96.0
    line_jitter: float = 0.24
    node_jitter_m: float = 7.0
    warp_m: float = 70.0
    warp_scale_m: float = 620.0
    irregularity: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    closed_street_share: float = 0.14
    avenue_share: float = 0.10
    cross_avenue_share: float = 0.06
    pavement_m: float = 2.6
    quarter_limits: tuple[float, float, float] = (0.27, 0.53, 0.72)
    quarter_scale_m: float = 850.0
    park_share: float = 0.07
    parking_share: float = 0.04
    sport_share: float = 0.025
    river_width: float = 0.006
    river_level: float = 0.56
    street_trees: tuple[float, float, float, float] = (0.3, 0.9, 0.9, 0.9)
    low: float = 1.0
    palette: str = "brick"
    east_m: float = 0.0

    @property
    def reach_m(self) -> float:
        """Largest distance of a street node from its place in the regular grid."""
        stray = self.node_jitter_m * max(self.irregularity)
        return self.line_jitter * self.block_m + stray + self.warp_m


STYLES = {
    "default": Style(),
    "harbour": Style(
        block_m=118.0, line_jitter=0.16, node_jitter_m=6.0, warp_m=46.0, warp_scale_m=480.0,
        irregularity=(0.6, 1.2, 2.6, 0.2), closed_street_share=0.2, avenue_share=0.05, cross_avenue_share=0.11,
        pavement_m=3.4, quarter_limits=(0.34, 0.5, 0.7), quarter_scale_m=700.0, park_share=0.1, parking_share=0.05,
        sport_share=0.02, river_width=0.02, river_level=0.5, street_trees=(0.2, 0.6, 0.35, 1.0), low=0.8,
        palette="stucco", east_m=40_960.0,
    ),
}  # fmt: skip
"""Cities by name: another one for training here and testing there, of other blocks, heights, colours and trees."""


def style_named(name: str) -> Style:
    """A style of `STYLES`; raises `ConfigError` naming them all for another name."""
    if name not in STYLES:
        raise ConfigError(f"There is no city style {name!r}; take one of {', '.join(STYLES)}.")
    return STYLES[name]
