"""A route while it is driven: photos are taken in by their searches, and the answer is ready after each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoloc.core.errors import QueryError
from geoloc.localization.locator import SearchResult
from geoloc.localization.routes.emission import EmissionModel
from geoloc.localization.routes.filter import FilterSettings, FilterState, RouteFilter
from geoloc.localization.routes.motion import Step
from geoloc.localization.routes.route_answer import RouteFix
from geoloc.localization.routes.route_fix import route_fix
from geoloc.localization.routes.route_map import RouteMap

USUAL_EMISSION = EmissionModel(temperature=0.05, outlier=0.3)
"""Of cosines, where no photos of known position were given."""


class OngoingRoute:
    """The photos of one route on one map; `continued` is the state of the same map after the photos before."""

    def __init__(
        self,
        route_map: RouteMap,
        bits: int,
        snapshot_id: str,
        *,
        emission: EmissionModel | None = None,
        settings: FilterSettings | None = None,
        continued: FilterState | None = None,
    ) -> None:
        self.route_map = route_map
        self.snapshot_id = snapshot_id
        self._bits = bits
        self._emission = emission
        self._filter = RouteFilter(route_map.motion, settings, continued=continued)

    def take(self, found: SearchResult, steps: Sequence[Step]) -> None:
        """Take in photos by their search, one for each step; the step says of the way to the photo.

        Raises `QueryError` where a way leads nowhere.
        """
        for number, step in enumerate(steps):
            self.take_one(found, number, step)

    def take_one(self, found: SearchResult, number: int, step: Step) -> None:
        """Take in one photo of a search."""
        emission = self._emission or USUAL_EMISSION
        self._filter.update(self.route_map.evidence(found, number, self._bits, emission), step)

    def pass_by(self, step: Step) -> None:
        """Move on without a photo, as where it cannot be read; it has a position all the same."""
        self._filter.update((self._emission or USUAL_EMISSION).evidence(np.zeros(0)), step)

    @property
    def state(self) -> FilterState:
        """What continues the route elsewhere."""
        return self._filter.state

    def fix(self) -> RouteFix:
        """The answer after the photos so far, up to the filter's lag; `QueryError` without any."""
        if not self._filter.photos:
            raise QueryError("The route has no photo; give one or more.", reason="no_photo")
        return route_fix(
            self._filter, self.route_map, self.snapshot_id, calibrated=self._emission is not None
        )
