"""The map of a route: the tiles of an index, or the places of a street graph with the tiles that show them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from geoloc.core import geodesy
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import QueryError
from geoloc.geometry.street_graph import MappedGraph
from geoloc.index.search.region import Region
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization.locator import SearchResult
from geoloc.localization.routes.emission import EmissionModel, fit_emission
from geoloc.localization.routes.kernels import Evidence
from geoloc.localization.routes.motion import DistanceMotion, GridMotion, Motion

_TILE_REACH = 1.5  # spacings of tiles within which a place of a street graph has a tile


@dataclass(frozen=True)
class RouteMap:
    """Places of a map, and what is compared with photos at them.

    ids: of the places; lat, lon: float64[P] degrees. rows: int64[T], tiles of the snapshot, ascending. tile: int64[P],
    the place's position in `rows`, -1 for a place that no tile shows. motion: how cameras move between the places.
    """

    ids: tuple[str, ...]
    lat: FloatArray
    lon: FloatArray
    rows: IntArray
    tile: IntArray
    motion: Motion

    @classmethod
    def of_tiles(
        cls,
        snapshot: Snapshot,
        region: Region | None = None,
        *,
        reach_m: float = 200.0,
        most: int | None = None,
    ) -> RouteMap:
        """All tiles of a snapshot in a region as places; memory: about 200 bytes for each.

        Raises `QueryError` where no tile has coordinates, none lies in the region, or more than `most` do.
        """
        rows, ids, lat, lon = _tiles(snapshot, region, most)
        x, y = _metres(lat, lon)
        motion = GridMotion(x, y, reach_m=reach_m)
        return cls(tuple(ids), lat, lon, rows, np.arange(len(rows)), motion)

    @classmethod
    def of_graph(
        cls, snapshot: Snapshot, mapped: MappedGraph, region: Region | None = None, *, reach_m: float = 60.0
    ) -> RouteMap:
        """The places of a street graph, each with the nearest tile of a snapshot, if one lies near.

        Raises as `of_tiles`, and `QueryError` where no place has a tile.
        """
        rows, _, lat, lon = _tiles(snapshot, region)
        frame = _frame(lat, lon)
        points = np.stack(frame.to_metres(lat, lon), axis=-1)
        tree = cKDTree(points)
        spacing_m = float(np.median(np.asarray(tree.query(points, k=[2])[0]))) if len(points) > 1 else 50.0
        limit_m = _TILE_REACH * min(max(spacing_m, 5.0), 100.0)
        nodes = np.stack(frame.to_metres(mapped.lat, mapped.lon), axis=-1)
        apart, nearest = tree.query(nodes, distance_upper_bound=limit_m)
        tile = np.where(np.isfinite(apart), nearest, -1).astype(np.int64)
        if not (tile >= 0).any():
            raise QueryError(
                f"No place of the street graph has a tile within {limit_m:.0f} m; give the graph of the index's area.",
                reason="no_tile_in_region",
            )
        motion = DistanceMotion(mapped.graph, reach_m=reach_m)
        return cls(mapped.ids, mapped.lat, mapped.lon, rows, tile, motion)

    def evidence(self, found: SearchResult, query: int, bits: int, emission: EmissionModel) -> Evidence:
        """What a photo of a search says of every place; tiles that the search did not find have the floor."""
        compared, scores = self._compared(found, query, bits)
        said = emission.evidence(scores, compared, count=len(self.rows))
        order, tiles = self._places_by_tile
        begin = np.searchsorted(tiles, said.places)
        count = np.searchsorted(tiles, said.places, side="right") - begin
        match = np.repeat(np.arange(len(begin)), count)
        places = order[np.repeat(begin - np.cumsum(count) + count, count) + np.arange(len(match))]
        ascending = np.argsort(places, kind="stable")
        return said._replace(
            places=places[ascending], similarity=said.similarity[match[ascending]], all_places=False
        )

    @cached_property
    def _places_by_tile(self) -> tuple[IntArray, IntArray]:
        """Places int64[P] by their tile, and those tiles."""
        order = np.argsort(self.tile, kind="stable")
        return order, self.tile[order]

    def _compared(self, found: SearchResult, query: int, bits: int) -> tuple[IntArray, FloatArray]:
        own = found.matches.rows[query]
        position = np.minimum(np.searchsorted(self.rows, own), len(self.rows) - 1)
        known = self.rows[position] == own
        return position[known], found.matches.scores(bits)[query][known]


def emission_of_search(
    found: SearchResult, lat: FloatArray, lon: FloatArray, bits: int, *, tiles: int, near_m: float
) -> EmissionModel:
    """Fit an emission model to a search of photos whose positions lat, lon float64[Q] are known.

    The right tile of a photo is the nearest of its matches, if it lies within `near_m`; a photo without one counts as
    one that says nothing. tiles: of the map.
    """
    matches = found.matches
    apart = geodesy.distance_m(matches.lat, matches.lon, lat[:, None], lon[:, None])
    apart = np.where(np.isfinite(apart), apart, np.inf)
    truth = np.where(apart.min(axis=1) <= near_m, apart.argmin(axis=1), -1)
    scores = matches.scores(bits)
    return fit_emission(np.where(np.isfinite(scores), scores, -1e9), truth, count=tiles)


def _tiles(
    snapshot: Snapshot, region: Region | None, most: int | None = None
) -> tuple[IntArray, list[str], FloatArray, FloatArray]:
    """(rows int64[T], ids, lat, lon float64[T]) of the live tiles with coordinates in a region."""
    rows, ids, degrees, total = [], [], [], 0
    for shard in snapshot.shards:
        names, lat, lon = shard.tile_ids, shard.lat, shard.lon
        kept = np.isfinite(lat) & np.isfinite(lon)
        if shard.live_rows is not None:
            kept &= shard.live_rows
        if region is not None:
            kept &= region.contains(lat, lon)
        chosen = np.flatnonzero(kept)
        total += len(chosen)
        if most is not None and total > most:
            raise QueryError(
                f"The area of the route has more than {most:,} tiles; give a smaller one.",
                reason="region_too_large",
            )
        rows.append(shard.first_row + chosen)
        ids.extend(names.take(chosen).to_pylist())
        degrees.append(np.stack([lat[chosen], lon[chosen]]))
    if not ids:
        raise QueryError(
            "No tile with coordinates lies in the area of the route; give another area or another index.",
            reason="no_tile_in_region",
        )
    lat, lon = np.concatenate(degrees, axis=1)
    return np.concatenate(rows).astype(np.int64), ids, lat, lon


def _frame(lat: FloatArray, lon: FloatArray) -> geodesy.LocalFrame:
    return geodesy.LocalFrame(geodesy.LatLon(float(np.median(lat)), float(np.median(lon))))


def _metres(lat: FloatArray, lon: FloatArray) -> tuple[FloatArray, FloatArray]:
    return _frame(lat, lon).to_metres(lat, lon)
