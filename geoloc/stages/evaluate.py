"""Stage `evaluate`: queries of known place against an index; recall, errors in metres, coverage, a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from geoloc.core import part_table, storage
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.evaluation.protocol import leaks, sanity_checks
from geoloc.evaluation.protocol.apply_protocol import Assessed, ask, assess, sides_of
from geoloc.evaluation.protocol.protocols import DEFAULT, PHOTOS_TO_TILES, Protocol, find_protocol
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.gallery import Gallery
from geoloc.evaluation.ranking.metrics import error_summary, top_percent_k
from geoloc.evaluation.ranking.photos_and_tiles import Photos, Tiles, photos_side, tiles_side
from geoloc.evaluation.report import provenance, report
from geoloc.evaluation.report.answer_tables import write_answers
from geoloc.evaluation.report.located_errors import Coverage
from geoloc.evaluation.report.measure import Measured, calibrate, coverage, measure, relocated
from geoloc.evaluation.report.results import FORMAT_VERSION, direction_result, protocol_result
from geoloc.evaluation.report.results import EvaluateResult as EvaluateResult
from geoloc.localization.calibration import save_calibration
from geoloc.localization.locator import Locator
from geoloc.stages.encode_queries import encode_queries
from geoloc.stages.evaluate_settings import EvaluateConfig as EvaluateConfig
from geoloc.stages.evaluate_settings import EvaluateInputs as EvaluateInputs

METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
RESULTS = "results"


def run(
    config: EvaluateConfig, inputs: EvaluateInputs, output: str, *, overwrite: bool = False
) -> EvaluateResult:
    """Measure and write `results/` (GeoParquet), `report.html` and, last, `metrics.json` to `output`.

    Encoded queries are kept (`inputs.encoded`, else in the output), so that a second index of the same model
    costs only the search. Raises `ArtifactError` when the output holds another evaluation, `InputError` from
    the sanity gates, `ConfigError` for an unknown protocol, and what opening the index raises.
    """
    output = storage.absolute(output)
    protocol = choose_protocol(config.protocol, inputs.queries)
    locator = Locator.open(inputs.index, inputs.snapshot_id)
    if config.calibrate:
        locator = Locator(locator.snapshot)  # an earlier fit must not leak into the next one
    lengths = _code_bits(config, locator.snapshot.bits)
    fingerprint = _fingerprint(config, inputs, locator, protocol)
    # Shared: encoded queries lie here too and outlive an evaluation.
    if record := begin_output(
        output, fingerprint, record=METRICS_NAME, what="an evaluation", overwrite=overwrite, shared=True
    ):
        return EvaluateResult.model_validate_json(record).model_copy(update={"reused": True})
    findings = _leaks(config, inputs, protocol)
    encoded_uri = _encoded(config, inputs, output, locator, overwrite=overwrite)
    encoded = EncodedTable(encoded_uri)
    sides = _sides(protocol, inputs, locator, encoded)
    findings += _checked(sides)
    way = _Way(config, protocol, lengths)
    measured, assessed = way.assess(locator, encoded, sides, _pairs(inputs.queries))
    locator, measured, covered, said = _calibrated(locator, measured, config, inputs)
    result = _Result(way, locator, measured, assessed).of(fingerprint, output, inputs)
    quarantined = sum(part_table.read_manifest(encoded_uri).quarantined.values())
    said += [f"{quarantined} photos could not be read and are not counted."] if quarantined else []
    result = result.model_copy(
        update={
            "coverage": covered,
            "findings": [*findings, *result.findings, *said],
            "quarantined": quarantined,
        }
    )
    for sentence in result.findings:
        say(f"evaluate: {sentence}")
    write_answers(storage.join(output, RESULTS), locator, measured, assessed, fingerprint)
    if config.report:
        html = report.render(result, assessed, measured, _pictures(inputs), config.report_queries)
        storage.write_bytes(storage.join(output, REPORT_NAME), html.encode())
    storage.write_bytes(storage.join(output, METRICS_NAME), result.model_dump_json(indent=1).encode())
    return result


def choose_protocol(name: str | None, queries: str) -> Protocol:
    """The protocol of that name; without one that of the data set in `queries`, else the default."""
    if name is None:
        note = provenance.dataset_note(queries)
        name = (note or {}).get("protocol") or DEFAULT
    return find_protocol(str(name))


def _code_bits(config: EvaluateConfig, stored: int) -> tuple[int, ...]:
    bits = config.code_bits or (stored,)
    for length in bits:
        if length % 8 or not 8 <= length <= stored:
            raise ConfigError(
                f"code_bits has {length}; the index has codes of {stored} bits: give multiples of 8 up to that."
            )
    return tuple(sorted({*bits, stored}))


def _fingerprint(config: EvaluateConfig, inputs: EvaluateInputs, locator: Locator, protocol: Protocol) -> str:
    part_table.read_manifest(storage.join(inputs.queries, "queries"), kind="queries")
    fit = None if locator.calibration is None else locator.calibration.model_dump_json()
    trained_on, snapshot_id = inputs.trained_on, locator.snapshot.snapshot_id
    content = {
        "version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
        "data": provenance.data_fingerprints(inputs.queries, inputs.tiles or inputs.queries, snapshot_id),
        "trained_on": trained_on and provenance.data_fingerprints(trained_on, trained_on, snapshot_id),
        "calibration": fit,
    }
    return fingerprint_of(content)


def _leaks(config: EvaluateConfig, inputs: EvaluateInputs, protocol: Protocol) -> list[str]:
    """Refuse queries or tiles that the model was trained on; what is only suspicious is said."""
    note = provenance.dataset_note(inputs.queries) or {}
    said = [str(sentence) for sentence in note.get("findings") or []]
    if inputs.trained_on is None:
        return said
    found = leaks.check_leaks(
        inputs.queries,
        inputs.trained_on,
        radius_m=config.leak_radius_m,
        shared_area=protocol.shared_area,
    )
    return said + found


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


def _sides(
    protocol: Protocol, inputs: EvaluateInputs, locator: Locator, encoded: EncodedTable
) -> tuple[Photos, Tiles]:
    """Photos and tiles, with their places where the protocol asks for them."""

    def places(root: str, kind: str, column: str) -> pa.Table | None:
        uri = storage.join(root, kind)
        there = protocol.truth == "place" and storage.exists(storage.join(uri, part_table.MANIFEST_NAME))
        return part_table.read(uri, kind=kind, columns=[column, "place_id"]) if there else None

    photos = photos_side(encoded, places(inputs.queries, "queries", "query_id"), locator.snapshot.bits)
    tiles = tiles_side(Gallery(locator.snapshot), places(inputs.tiles or inputs.queries, "tiles", "tile_id"))
    return photos, tiles


def _checked(sides: tuple[Photos, Tiles]) -> list[str]:
    """Refuse embeddings and ids that no figure can rest on; sentences about the rest."""
    photos, tiles = sides
    for side in sides:
        sanity_checks.check_ids(side.ids, side.what)
    for _, queries in photos.groups:
        sanity_checks.check_embeddings([queries.embedding[:, 0]], f"the {queries.view} queries")
    sanity_checks.check_embeddings(tiles.embeddings(), "the tiles")
    said = sanity_checks.constant_codes(tiles.codes(), "the tiles")
    for side in sides:
        if not side.located:
            said.append(
                f"The {side.what} have no coordinates: recall is by pairs or places alone, and no metres are measured."
            )
    return said


def _pairs(queries: str) -> pa.Table | None:
    uri = storage.join(queries, "pairs")
    if not storage.exists(storage.join(uri, part_table.MANIFEST_NAME)):
        return None
    return part_table.read(uri, kind="pairs", columns=["query_id", "tile_id", "relation"])


class _Way:
    """How one protocol is measured: its settings, with what the user changed."""

    def __init__(self, config: EvaluateConfig, protocol: Protocol, lengths: tuple[int, ...]) -> None:
        self.config, self.protocol, self.lengths = config, protocol, lengths
        self.ks = config.ks or protocol.ks
        self.rule = config.top_percent or protocol.top_percent
        self.changed = []
        if self.ks != protocol.ks:
            self.changed.append(f"K is {', '.join(map(str, self.ks))}")
        if self.rule != protocol.top_percent:
            self.changed.append(f"1 % is {self.rule} instead of {protocol.top_percent}")

    def assess(
        self, locator: Locator, encoded: EncodedTable, sides: tuple[Photos, Tiles], pairs: pa.Table | None
    ) -> tuple[Measured | None, list[Assessed]]:
        """Every direction of the protocol; photos that ask for tiles are located too."""
        measured, assessed = None, []
        for direction in self.protocol.directions:
            asking, gallery = sides_of(direction, *sides)
            radius_m = self.config.truth_radius_m
            asked = ask(
                self.protocol, direction, asking, gallery, pairs, radius_m=radius_m, radii_m=(radius_m,)
            )
            if self.protocol.truth in ("pairs", "place"):
                sanity_checks.check_common(len(asked.right.query), len(asking), gallery.what)
            rerank = self.config.rerank
            if direction == PHOTOS_TO_TILES:
                measured = measure(locator, encoded, sides, asked, lengths=self.lengths, rerank=rerank)
                assessed.append(measured.assessed)
            else:
                assessed.append(assess(asked, asking, gallery, lengths=self.lengths, rerank=rerank))
        if measured is None and self.config.calibrate:
            raise ConfigError(
                f"calibrate needs photos that ask for tiles, and {self.protocol.id} asks the other way; leave it out."
            )
        return measured, assessed


def _calibrated(
    locator: Locator, measured: Measured | None, config: EvaluateConfig, inputs: EvaluateInputs
) -> tuple[Locator, Measured | None, list[Coverage], list[str]]:
    """Calibrate where asked for, else check what is there."""
    if measured is None:
        return locator, None, [], []
    if not config.calibrate:
        covered = coverage(locator.calibration, measured) if locator.calibration else []
        return locator, measured, covered, []
    fitted, covered, findings = calibrate(
        locator, measured, rerank=config.rerank, radius_limit_m=config.radius_limit_m
    )
    if fitted.query_kinds:
        save_calibration(inputs.index, fitted)
        locator = Locator(locator.snapshot, fitted)
        measured = relocated(locator, measured)
    return locator, measured, covered, findings


class _Result:
    """The figures put together."""

    def __init__(
        self, way: _Way, locator: Locator, measured: Measured | None, assessed: list[Assessed]
    ) -> None:
        self._way, self._locator, self._measured, self._assessed = way, locator, measured, assessed

    def of(self, fingerprint: str, output: str, inputs: EvaluateInputs) -> EvaluateResult:
        way, snapshot = self._way, self._locator.snapshot
        first = self._assessed[0]
        directions = [direction_result(one, way.ks, way.rule) for one in self._assessed]
        near = first.within.get(way.config.truth_radius_m)
        return EvaluateResult(
            fingerprint=fingerprint,
            snapshot_id=snapshot.snapshot_id,
            model_id=snapshot.manifest.model.model_id,
            output=output,
            queries=first.retrieval.queries,
            gallery=first.retrieval.gallery,
            bits=snapshot.bits,
            rerank=way.config.rerank,
            top_percent_k=top_percent_k(first.retrieval.gallery, way.rule),
            protocol=protocol_result(way.protocol, directions, way.rule, way.changed),
            table=directions[0].table,
            within_radius_m=way.config.truth_radius_m,
            within_radius=near.only(self._nearby_methods()).rows(way.ks, way.rule) if near else [],
            calibrated=self._locator.calibration is not None,
            findings=self._findings(),
            data=provenance.data_fingerprints(
                inputs.queries, inputs.tiles or inputs.queries, snapshot.snapshot_id
            ),
            recipe=provenance.recipe_of(snapshot.model_uri),
            environment=provenance.environment(),
            **self._located(),
        )

    def _nearby_methods(self) -> list[str]:
        """Floats and the whole code: prefixes are compared by the true tile alone."""
        shorter = {name for bits in self._way.lengths[:-1] for name in (f"codes {bits}", f"codes {bits} +")}
        methods = self._assessed[0].retrieval.counts
        return [name for name in methods if " ".join(name.split()[:3]) not in shorter]

    def _located(self) -> dict[str, Any]:
        """Errors of located photos, and figures by kind of query."""
        measured, way = self._measured, self._way
        out: dict[str, Any] = {
            "protocols": {},
            "top1_error": {},
            "located_error": {},
            "located_error_by_protocol": {},
        }
        if measured is None:
            return out
        located = measured.assessed.asking.located and measured.assessed.gallery.located
        every = np.ones(len(measured.error_m), dtype=np.bool_)
        if located:
            out["top1_error"] = _errors(measured, measured.top1_error_m, every)
            out["located_error"] = _errors(measured, measured.error_m, every)
        for rows, group in measured.located:
            chosen = np.zeros(len(every), dtype=np.bool_)
            chosen[rows] = True
            out["protocols"][group.protocol] = measured.retrieval.rows(way.ks, way.rule, chosen)
            if located:
                errors = _errors(measured, measured.error_m, chosen)
                out["located_error_by_protocol"][group.protocol] = errors
        return out

    def _findings(self) -> list[str]:
        said = []
        protocol, first = self._way.protocol, f"R@{min(self._way.ks)}"
        for one in self._assessed:
            retrieval = one.retrieval
            table = retrieval.rows(self._way.ks, self._way.rule)
            missing = int((retrieval.truth.counts(retrieval.queries) == 0).sum())
            what = {"floats": "the float embeddings"}.get(table[0].method, table[0].method)
            if len(self._assessed) > 1:
                what = f"{what}, {one.asked.direction},"
            said += sanity_checks.no_better_than_chance(
                table[0].recall[first], table[-1].recall[first], retrieval.queries, what
            )
            said += sanity_checks.without_match(missing, retrieval.queries)
            if one.asked.direction in protocol.single_match:
                several = int((retrieval.truth.counts(retrieval.queries) > 1).sum())
                said += sanity_checks.several_matches(several, retrieval.queries, protocol.name)
            if (
                one.asked.direction in protocol.single_match
                and {"AP", "R@1"} <= table[0].recall.keys()
                and not missing
            ):
                sanity_checks.check_precision(table[0].recall["AP"], table[0].recall["R@1"], table[0].method)
        if protocol.published_queries is not None:
            said += self._turned()
        first_one = self._assessed[0].retrieval
        published = protocol.published_queries, protocol.published_gallery
        return said + sanity_checks.not_comparable(
            first_one.queries, first_one.gallery, published, protocol.name
        )

    def _turned(self) -> list[str]:
        """What photos of unknown heading mean for a published protocol."""
        sides = (side for one in self._assessed[:1] for side in (one.asking, one.gallery))
        photos = next(side for side in sides if isinstance(side, Photos))
        heads = [(len(rows), queries.embedding.shape[1]) for rows, queries in photos.groups]
        turned = sum(count for count, heads_each in heads if heads_each > 1)
        return sanity_checks.turned_photos(
            turned, len(photos), max(heads_each for _, heads_each in heads), self._way.protocol.name
        )


def _errors(measured: Measured, error_m: FloatArray, chosen: BoolArray) -> dict[str, float | int | None]:
    """Errors of the chosen queries that have a true position."""
    return error_summary(error_m[chosen & np.isfinite(measured.true_lat)])


def _pictures(inputs: EvaluateInputs) -> report.Pictures:
    tiles = inputs.tiles or inputs.queries
    return report.Pictures(storage.join(inputs.queries, "queries"), storage.join(tiles, "tiles"))
