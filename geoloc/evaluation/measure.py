"""All measurements of one evaluation: ranks, positions, calibration and its coverage, on arrays in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.evaluation.encoded import EncodedTable
from geoloc.evaluation.gallery import Gallery
from geoloc.evaluation.positions import (
    Coverage,
    Located,
    calibrate_group,
    coverage_of,
    errors_of,
    fit_half,
    locate_group,
)
from geoloc.evaluation.protocol import truth_from_pairs, truth_within
from geoloc.evaluation.ranks import IntArray, Truth
from geoloc.evaluation.tables import Retrieval, merged, retrieve
from geoloc.localization.calibration import Calibration, NotEnoughQueries
from geoloc.localization.locator import Locator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was measured on Q queries, in the order of the encoded table.

    retrieval: ranks of the true tiles; nearby: ranks of the tiles within a radius of the true position.
    lat, lon: the located positions; true_lat, true_lon the truth; errors in metres, NaN where unknown.
    """

    encoded: EncodedTable
    gallery: Gallery
    retrieval: Retrieval
    nearby: Retrieval
    located: list[tuple[IntArray, Located]]
    true_lat: FloatArray
    true_lon: FloatArray
    lat: FloatArray
    lon: FloatArray
    top1_error_m: FloatArray
    error_m: FloatArray


def measure(
    locator: Locator,
    encoded: EncodedTable,
    pairs: pa.Table | None,
    *,
    lengths: tuple[int, ...],
    rerank: int,
    radius_m: float,
) -> Measured:
    """Rank, search and locate all encoded queries.

    `pairs` (None: there are none) says which tiles are right; without, those within `radius_m` are.
    `lengths` are the code lengths in bits to compare.
    """
    gallery = Gallery(locator.snapshot)
    near = truth_within(encoded.degrees("lat"), encoded.degrees("lon"), gallery.lat, gallery.lon, radius_m)
    right = near
    if pairs is not None and pairs.num_rows:
        right = truth_from_pairs(encoded.query_ids, pairs, gallery.tile_ids)
    located = [(rows, locate_group(locator, queries, rerank=rerank)) for rows, queries in encoded.groups()]
    tables = [
        _retrieval(encoded, gallery, truth, located, lengths=own, rerank=rerank)
        for truth, own in ((right, lengths), (near, lengths[-1:]))
    ]
    return _placed(encoded, gallery, tables, located)


def _retrieval(
    encoded: EncodedTable,
    gallery: Gallery,
    truth: Truth,
    located: list[tuple[IntArray, Located]],
    *,
    lengths: tuple[int, ...],
    rerank: int,
) -> Retrieval:
    groups = []
    for (rows, queries), (_, group) in zip(encoded.groups(), located, strict=True):
        counts = retrieve(
            gallery,
            queries.embedding,
            queries.code,
            _of_group(truth, rows, len(encoded)),
            lengths=lengths,
            rerank=rerank,
            served=group.found.matches,
        )
        groups.append((rows, counts))
    return Retrieval(merged(groups, len(encoded)), truth, len(encoded), len(gallery))


def _of_group(truth: Truth, rows: IntArray, queries: int) -> Truth:
    """The truth of some of the queries, renumbered from 0."""
    place = np.full(queries, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    inside = place[truth.query] >= 0
    return Truth(place[truth.query[inside]], truth.tile[inside])


def _placed(
    encoded: EncodedTable,
    gallery: Gallery,
    tables: list[Retrieval],
    located: list[tuple[IntArray, Located]],
) -> Measured:
    true = encoded.degrees("lat"), encoded.degrees("lon")
    lat, lon, top_lat, top_lon = (np.full(len(encoded), np.nan) for _ in range(4))
    for rows, group in located:
        lat[rows], lon[rows] = group.cluster.lat, group.cluster.lon
        top_lat[rows], top_lon[rows] = group.found.matches.lat[:, 0], group.found.matches.lon[:, 0]
    top1, error = errors_of(top_lat, top_lon, *true), errors_of(lat, lon, *true)
    return Measured(encoded, gallery, tables[0], tables[1], located, *true, lat, lon, top1, error)


def relocated(locator: Locator, measured: Measured) -> Measured:
    """The same queries, located with the settings that the locator's calibration chose."""
    located = []
    for rows, group in measured.located:
        settings = locator.settings_for(group.protocol)
        cluster = locator.cluster(group.found, settings)
        located.append((rows, Located(group.found, cluster, settings, group.protocol)))
    return _placed(measured.encoded, measured.gallery, [measured.retrieval, measured.nearby], located)


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
    return Calibration(snapshot_id=snapshot_id, rerank=rerank, protocols=fits), checked, findings


def coverage(calibration: Calibration, measured: Measured) -> list[Coverage]:
    """Coverage of a calibration that was there before; its queries may be among these."""
    found = []
    for rows, group in measured.located:
        fit = calibration.protocols.get(group.protocol)
        errors = measured.error_m[rows]
        known = np.isfinite(errors)
        if fit is not None and known.any():
            features = group.cluster.features[known]
            found.append(coverage_of(fit, features, errors[known], group.protocol, held_out=False))
    return found
