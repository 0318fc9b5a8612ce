"""Stage `evaluate`: queries of known place against an index; recall, errors in metres, coverage, a report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc import parts, storage, tables
from geoloc.errors import ArtifactError, ConfigError, InputError
from geoloc.evaluation import gates, report
from geoloc.evaluation.encoded import EncodedTable
from geoloc.evaluation.measure import Measured, calibrate, coverage, measure, relocated
from geoloc.evaluation.metrics import TopPercent, error_summary, top_percent_k
from geoloc.evaluation.positions import Coverage
from geoloc.evaluation.tables import RecallRow
from geoloc.localization.calibration import save_calibration
from geoloc.localization.locator import Locator
from geoloc.localization.photos import HEADINGS
from geoloc.pipelines.encoded import encode_queries
from geoloc.progress import say

METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
RESULTS = "results"
FORMAT_VERSION = 1
FloatArray = npt.NDArray[np.float64]


class EvaluateConfig(BaseModel):
    """What is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ks: tuple[int, ...] = Field(default=(1, 5, 10), description="Recall@K for these K, and for the top 1 %.")
    top_percent: TopPercent = Field(
        default="int_plus_one", description="How many answers 'top 1 %' allows: the field has several rules."
    )
    rerank: int = Field(default=100, ge=0, description="Nearest codes to order by float embeddings.")
    code_bits: tuple[int, ...] = Field(
        default=(),
        description="Code lengths to compare, as prefixes of the index's codes; empty: the whole code.",
    )
    truth_radius_m: float = Field(
        default=25.0, gt=0, description="Without pairs, and for Recall@K<r: tiles this near are right."
    )
    headings: int = Field(default=HEADINGS, ge=1, description="Candidates for an unknown heading.")
    calibrate: bool = Field(
        default=False,
        description="Fit radius and confidence on half of the queries and store them with the index.",
    )
    radius_limit_m: float = Field(
        default=100.0, gt=0, description="Largest calibrated radius; beyond it only confidence speaks."
    )
    report: bool = Field(default=True, description="Write report.html.")
    report_queries: int = Field(default=12, ge=0, le=100, description="Queries shown with pictures.")


class EvaluateInputs(BaseModel):
    """What is measured on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    queries: str = Field(
        description="URI of an ingest output with queries/ and, where there are any, pairs/."
    )
    tiles: str | None = Field(
        default=None, description="URI of an ingest output whose tiles/ has the pictures for the report."
    )
    encoded: str | None = Field(
        default=None,
        description="URI of encoded queries that evaluations share; made when missing. Default: in the output.",
    )
    trained_on: str | None = Field(
        default=None, description="URI of the ingest output of the training; overlap with it is refused."
    )
    snapshot_id: str | None = Field(
        default=None, description="Snapshot to evaluate; default: the current one."
    )


class EvaluateResult(BaseModel):
    """What was measured; recalls in percent, lengths in metres."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    fingerprint: str
    snapshot_id: str
    model_id: str
    output: str
    queries: int
    quarantined: int = 0
    gallery: int
    bits: int
    rerank: int
    top_percent_k: int
    table: list[RecallRow]
    within_radius_m: float
    within_radius: list[RecallRow]
    protocols: dict[str, list[RecallRow]]
    top1_error: dict[str, float | int | None]
    located_error: dict[str, float | int | None]
    located_error_by_protocol: dict[str, dict[str, float | int | None]]
    coverage: list[Coverage] = Field(default_factory=list)
    calibrated: bool
    findings: list[str]
    reused: bool = False

    def recall(self, method: str, measure: str = "R@1") -> float:
        """A figure of the main table, such as ("floats", "R@1"); `InputError` for names it does not have."""
        for row in self.table:
            if row.method == method and measure in row.recall:
                return row.recall[measure]
        known = ", ".join(row.method for row in self.table)
        raise InputError(
            f"The table has no {measure} of {method!r}; its rows are {known}.", reason="no_such_figure"
        )


def run(
    config: EvaluateConfig, inputs: EvaluateInputs, output: str, *, overwrite: bool = False
) -> EvaluateResult:
    """Measure and write `results/` (GeoParquet), `report.html` and, last, `metrics.json` to `output`.

    Encoded queries are kept (`inputs.encoded`, else in the output), so that a second index of the same model
    costs only the search. Raises `ArtifactError` when the output holds another evaluation, `InputError` from
    the sanity gates, and what opening the index raises.
    """
    output = storage.absolute(output)
    locator = Locator.open(inputs.index, inputs.snapshot_id)
    if config.calibrate:
        locator = Locator(locator.snapshot)  # an earlier fit must not leak into the next one
    lengths = _code_bits(config, locator.snapshot.bits)
    fingerprint = _fingerprint(config, inputs, locator)
    if (done := _finished(output, fingerprint, overwrite=overwrite)) is not None:
        return done.model_copy(update={"reused": True})
    _check_overlap(inputs)
    encoded_uri = _encoded(config, inputs, output, locator, overwrite=overwrite)
    encoded = EncodedTable(encoded_uri)
    for _, queries in encoded.groups():
        gates.check_embeddings(queries.embedding[:, 0], f"the {queries.view} queries")
    measured = measure(
        locator,
        encoded,
        _pairs(inputs.queries),
        lengths=lengths,
        rerank=config.rerank,
        radius_m=config.truth_radius_m,
    )
    locator, measured, covered, findings = _calibrated(locator, measured, config, inputs)
    result = _result(locator, measured, config, fingerprint, output)
    result = result.model_copy(
        update={
            "coverage": covered,
            "findings": [*result.findings, *findings],
            "quarantined": sum(parts.read_manifest(encoded_uri).quarantined.values()),
        }
    )
    for sentence in result.findings:
        say(f"evaluate: {sentence}")
    _write_results(storage.join(output, RESULTS), locator, measured, fingerprint)
    if config.report:
        html = report.render(result.model_dump(), measured, _pictures(inputs), config.report_queries)
        storage.write_bytes(storage.join(output, REPORT_NAME), html.encode())
    storage.write_bytes(storage.join(output, METRICS_NAME), result.model_dump_json(indent=1).encode())
    return result


def _code_bits(config: EvaluateConfig, stored: int) -> tuple[int, ...]:
    bits = config.code_bits or (stored,)
    for length in bits:
        if length % 8 or not 8 <= length <= stored:
            raise ConfigError(
                f"code_bits has {length}; the index has codes of {stored} bits: give multiples of 8 up to that."
            )
    return tuple(sorted({*bits, stored}))


def _fingerprint(config: EvaluateConfig, inputs: EvaluateInputs, locator: Locator) -> str:
    queries = parts.read_manifest(storage.join(inputs.queries, "queries"), kind="queries")
    fit = None if locator.calibration is None else locator.calibration.model_dump_json()
    content = {
        "version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "snapshot": locator.snapshot.snapshot_id,
        "queries": [part.sha256 for part in queries.parts],
        "tiles": inputs.tiles,
        "trained_on": inputs.trained_on,
        "calibration": fit,
    }
    return storage.sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _finished(output: str, fingerprint: str, *, overwrite: bool) -> EvaluateResult | None:
    uri = storage.join(output, METRICS_NAME)
    if not storage.exists(uri):
        return None
    found = EvaluateResult.model_validate_json(storage.read_bytes(uri))
    if found.fingerprint == fingerprint:
        return found
    if not overwrite:
        raise ArtifactError(
            f"{output!r} holds an evaluation of another index, queries or settings; pass --overwrite to replace it, "
            "or choose another output."
        )
    storage.delete(uri)
    return None


def _check_overlap(inputs: EvaluateInputs) -> None:
    """Refuse queries or tiles that the model was trained on."""
    if inputs.trained_on is None:
        return
    for table, column, what in (("queries", "query_id", "queries"), ("tiles", "tile_id", "tiles")):
        ours = storage.join(inputs.queries, table)
        theirs = storage.join(inputs.trained_on, table)
        if storage.exists(ours) and storage.exists(theirs):
            trained = set(parts.read(theirs, columns=[column])[column].to_pylist())
            gates.check_overlap(trained, set(parts.read(ours, columns=[column])[column].to_pylist()), what)


def _encoded(
    config: EvaluateConfig, inputs: EvaluateInputs, output: str, locator: Locator, *, overwrite: bool
) -> str:
    """Where the encoded queries are, after making what was missing."""
    uri = inputs.encoded or storage.join(output, "encoded")
    encode_queries(
        storage.join(inputs.queries, "queries"),
        locator.snapshot.model_uri,
        uri,
        headings=config.headings,
        overwrite=overwrite and inputs.encoded is None,
    )
    return uri


def _pairs(queries: str) -> pa.Table | None:
    uri = storage.join(queries, "pairs")
    if not storage.exists(storage.join(uri, parts.MANIFEST_NAME)):
        return None
    return parts.read(uri, kind="pairs", columns=["query_id", "tile_id", "relation"])


def _calibrated(
    locator: Locator, measured: Measured, config: EvaluateConfig, inputs: EvaluateInputs
) -> tuple[Locator, Measured, list[Coverage], list[str]]:
    """Calibrate where asked for, else check what is there."""
    if not config.calibrate:
        covered = coverage(locator.calibration, measured) if locator.calibration else []
        return locator, measured, covered, []
    fitted, covered, findings = calibrate(
        locator, measured, rerank=config.rerank, radius_limit_m=config.radius_limit_m
    )
    if fitted.protocols:
        save_calibration(inputs.index, fitted)
        locator = Locator(locator.snapshot, fitted)
        measured = relocated(locator, measured)
    return locator, measured, covered, findings


def _result(
    locator: Locator, measured: Measured, config: EvaluateConfig, fingerprint: str, output: str
) -> EvaluateResult:
    snapshot, retrieval = locator.snapshot, measured.retrieval
    table = retrieval.rows(config.ks, config.top_percent)
    without = int((retrieval.truth.counts(retrieval.queries) == 0).sum())
    first = f"R@{min(config.ks)}"
    findings = gates.findings(
        table[0].recall[first], table[-1].recall[first], retrieval.queries, without_tile=without
    )
    protocols, errors = {}, {}
    for rows, group in measured.located:
        chosen = np.zeros(retrieval.queries, dtype=np.bool_)
        chosen[rows] = True
        protocols[group.protocol] = retrieval.rows(config.ks, config.top_percent, chosen)
        errors[group.protocol] = _errors(measured, measured.error_m, chosen)
    every = np.ones(retrieval.queries, dtype=np.bool_)
    return EvaluateResult(
        fingerprint=fingerprint,
        snapshot_id=snapshot.snapshot_id,
        model_id=snapshot.manifest.model.model_id,
        output=output,
        queries=retrieval.queries,
        gallery=snapshot.count,
        bits=snapshot.bits,
        rerank=config.rerank,
        top_percent_k=top_percent_k(snapshot.count, config.top_percent),
        table=table,
        within_radius_m=config.truth_radius_m,
        within_radius=measured.nearby.rows(config.ks, config.top_percent),
        protocols=protocols,
        top1_error=_errors(measured, measured.top1_error_m, every),
        located_error=_errors(measured, measured.error_m, every),
        located_error_by_protocol=errors,
        calibrated=locator.calibration is not None,
        findings=findings,
    )


def _errors(
    measured: Measured, error_m: FloatArray, chosen: npt.NDArray[np.bool_]
) -> dict[str, float | int | None]:
    """Errors of the chosen queries that have a true position."""
    return error_summary(error_m[chosen & np.isfinite(measured.true_lat)])


def _write_results(uri: str, locator: Locator, measured: Measured, fingerprint: str) -> None:
    """The fix of every query with its errors and ranks, as GeoParquet; replaces an earlier, unfinished one."""
    parts.begin(uri, fingerprint, overwrite=True)
    fixes: dict[int, dict[str, Any]] = {}
    ids = measured.encoded.query_ids.to_pylist()
    for (rows, group), (_, queries) in zip(measured.located, measured.encoded.groups(), strict=True):
        answers = locator.fixes(group.found, queries, k=10)
        fixes |= {int(row): fix.row(ids[row]) for row, fix in zip(rows, answers, strict=True)}
    table = pa.Table.from_pylist([fixes[row] for row in range(len(ids))], schema=tables.FIXES)
    for name, values in {
        "true_lat": measured.true_lat,
        "true_lon": measured.true_lon,
        "error_m": measured.error_m,
        "top1_error_m": measured.top1_error_m,
    }.items():
        table = table.append_column(name, pa.array(values, pa.float64(), from_pandas=True))
    for method, counts in measured.retrieval.counts.items():
        # The first rank that the truth can have is 1; with ties the expected one, halfway through them.
        rank = counts.better + 1.0 + counts.tied / (counts.positives + 1.0)
        missing = counts.positives == 0
        table = table.append_column(
            f"rank {method}", pa.array(np.where(missing, np.nan, rank), from_pandas=True)
        )
    part = parts.write_part(uri, 0, tables.with_geometry(table))
    parts.publish(uri, kind="results", fingerprint=fingerprint, parts=[part])


def _pictures(inputs: EvaluateInputs) -> report.Pictures:
    tiles = inputs.tiles or inputs.queries
    return report.Pictures(storage.join(inputs.queries, "queries"), storage.join(tiles, "tiles"))
