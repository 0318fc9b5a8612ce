"""All measurements of one evaluation: ranks, positions, calibration and its coverage, on arrays in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.evaluation.protocol.apply_protocol import Asked, Assessed, assess
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.method_rows import Retrieval
from geoloc.evaluation.ranking.photos_and_tiles import Photos, Tiles
from geoloc.evaluation.report.located_errors import (
    Coverage,
    Located,
    calibrate_group,
    coverage_of,
    errors_of,
    fit_half,
    locate_group,
)
from geoloc.localization.calibration import Calibration, NotEnoughQueries
from geoloc.localization.locator import Locator


@dataclass(frozen=True)
class Measured:
    """What was measured on Q photos that ask for tiles, in the order of the encoded table.

    assessed: all rankings; located: positions by kind of query. lat, lon: the located positions; true_lat,
    true_lon the truth; errors in metres, NaN where unknown.
    """

    assessed: Assessed
    encoded: EncodedTable
    located: list[tuple[IntArray, Located]]
    true_lat: FloatArray
    true_lon: FloatArray
    lat: FloatArray
    lon: FloatArray
    top1_error_m: FloatArray
    error_m: FloatArray

    @property
    def retrieval(self) -> Retrieval:
        """Ranks of the right tiles."""
        return self.assessed.retrieval


def measure(
    locator: Locator,
    encoded: EncodedTable,
    sides: tuple[Photos, Tiles],
    asked: Asked,
    *,
    lengths: tuple[int, ...],
    rerank: int,
) -> Measured:
    """Rank, search and locate all encoded queries; `lengths` are the code lengths in bits to compare."""
    located = [(rows, locate_group(locator, queries, rerank=rerank)) for rows, queries in encoded.groups()]
    served = [group.found.matches for _, group in located]
    return _placed(assess(asked, *sides, lengths=lengths, rerank=rerank, served=served), encoded, located)


def _placed(assessed: Assessed, encoded: EncodedTable, located: list[tuple[IntArray, Located]]) -> Measured:
    true = encoded.degrees("lat"), encoded.degrees("lon")
    lat, lon, top_lat, top_lon = (np.full(len(encoded), np.nan) for _ in range(4))
    for rows, group in located:
        lat[rows], lon[rows] = group.cluster.lat, group.cluster.lon
        top_lat[rows], top_lon[rows] = group.found.matches.lat[:, 0], group.found.matches.lon[:, 0]
    top1, error = errors_of(top_lat, top_lon, *true), errors_of(lat, lon, *true)
    return Measured(assessed, encoded, located, *true, lat, lon, top1, error)


def relocated(locator: Locator, measured: Measured) -> Measured:
    """The same queries, located with the settings that the locator's calibration chose."""
    located = []
    for rows, group in measured.located:
        settings = locator.settings_for(group.protocol)
        cluster = locator.cluster(group.found, settings)
        located.append((rows, Located(group.found, cluster, settings, group.protocol)))
    return _placed(measured.assessed, measured.encoded, located)


def calibrate(
    locator: Locator, measured: Measured, *, rerank: int, radius_limit_m: float
) -> tuple[Calibration, list[Coverage], list[str]]:
    """Fit each protocol on half of its queries and check it on the other half.

    Returns the calibration, its coverage and sentences about protocols that have too few queries.
    """
    fits, checked, findings = {}, [], []
    half = fit_half(measured.encoded.query_ids.to_pylist())
    for rows, group in measured.located:
        known = np.isfinite(measured.error_m[rows])
        learn, check = known & half[rows], known & ~half[rows]
        true = measured.true_lat[rows], measured.true_lon[rows]
        try:
            fit = calibrate_group(locator, group, true, learn, radius_limit_m=radius_limit_m)
        except NotEnoughQueries as error:
            findings.append(f"{group.protocol} is not calibrated: {error}")
            continue
        fits[group.protocol] = fit
        cluster = locator.cluster(group.found, fit.settings())
        errors = errors_of(cluster.lat, cluster.lon, *true)
        if check.any():
            features = cluster.features[check]
            checked.append(coverage_of(fit, features, errors[check], group.protocol, held_out=True))
    snapshot_id = locator.snapshot.snapshot_id
    return Calibration(snapshot_id=snapshot_id, rerank=rerank, query_kinds=fits), checked, findings


def coverage(calibration: Calibration, measured: Measured) -> list[Coverage]:
    """Coverage of a calibration that was there before; its queries may be among these."""
    found = []
    for rows, group in measured.located:
        fit = calibration.query_kinds.get(group.protocol)
        errors = measured.error_m[rows]
        known = np.isfinite(errors)
        if fit is not None and known.any():
            features = group.cluster.features[known]
            found.append(coverage_of(fit, features, errors[known], group.protocol, held_out=False))
    return found
