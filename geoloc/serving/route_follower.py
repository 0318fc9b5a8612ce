"""Routes in a search replica: the maps of the last areas, and the filter on them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from geoloc.core.errors import QueryError
from geoloc.index.search.region import Region
from geoloc.localization.localizer import ROUTE_MATCHES
from geoloc.localization.locator import EncodedQueries, Locator, SearchResult
from geoloc.localization.routes.filter import FilterSettings
from geoloc.localization.routes.ongoing_route import OngoingRoute
from geoloc.localization.routes.route_map import RouteMap
from geoloc.serving.answer import RouteQuery, RouteReply
from geoloc.serving.metrics import LOCATE, SEARCH, record_step

MOST_PLACES = 200_000
"""Tiles of a route's area at most: about 40 MB of a replica for each of the last areas."""
_MAPS = 4
_REACH_M = 2000.0
_SETTINGS = FilterSettings(lag=64)


class RouteFollower:
    """Answers photos of routes; safe to use from several threads."""

    def __init__(self) -> None:
        self._maps: OrderedDict[tuple[str, Region | None], RouteMap] = OrderedDict()
        self._lock = threading.Lock()

    def follow(self, locator: Locator, queries: Sequence[EncodedQueries], query: RouteQuery) -> RouteReply:
        """Search photos and filter them after the state before; `QueryError` for a state of another map."""
        started = time.perf_counter()
        snapshot = locator.snapshot
        route_map = self._map(locator, query.region)
        if query.places is not None and query.places != len(route_map.ids):
            raise QueryError(
                f"The state is of a map of {query.places:,} places, the area has {len(route_map.ids):,}; begin a new "
                "route.",
                reason="bad_state",
            )
        mapped = time.perf_counter()
        parts = [
            locator.search(one, k=ROUTE_MATCHES, region=query.region, rerank=ROUTE_MATCHES) for one in queries
        ]
        searched = time.perf_counter()
        route = OngoingRoute(
            route_map, snapshot.bits, snapshot.snapshot_id, settings=_SETTINGS, continued=query.before
        )
        route.take(SearchResult.joined(parts), query.steps)
        fix = route.fix()
        followed = time.perf_counter()
        for _ in queries:
            record_step(SEARCH, (searched - mapped) / len(queries))
            record_step(LOCATE, (followed - searched) / len(queries))
        total, broken = len(snapshot.manifest.shards), len(snapshot.broken_shards())
        return RouteReply(
            fix,
            route.state,
            len(route_map.ids),
            queries[0].model_id,
            total - broken,
            total,
            {"search": 1e3 * (time.perf_counter() - started)},
        )

    def _map(self, locator: Locator, region: Region | None) -> RouteMap:
        key = (locator.snapshot.snapshot_id, region)
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        made = RouteMap.of_tiles(locator.snapshot, region, reach_m=_REACH_M, most=MOST_PLACES)
        with self._lock:
            self._maps[key] = made
            while len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        return made
