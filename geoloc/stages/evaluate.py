"""Stage `evaluate`: queries of known place against an index; recall, errors in metres, coverage, a report."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import ConfigError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.evaluation.protocol import leaks, sanity_checks
from geoloc.evaluation.protocol.protocols import DEFAULT, PHOTOS_TO_TILES, Protocol, find_protocol
from geoloc.evaluation.protocol.questions import Questions, build_questions
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.metrics import TopPercent
from geoloc.evaluation.ranking.photos_and_tiles import PhotoSet, TileSet, photo_set, tile_set
from geoloc.evaluation.ranking.reranking import Reranking
from geoloc.evaluation.ranking.route_accuracy import route_accuracy
from geoloc.evaluation.report import provenance, report
from geoloc.evaluation.report.answer_tables import write_answers
from geoloc.evaluation.report.build_result import FigureSettings, build_result, findings
from geoloc.evaluation.report.located_errors import LocatedPhotos, coverage, locate_photos
from geoloc.evaluation.report.recall_table import DirectionTables, direction_tables
from geoloc.evaluation.report.results import FORMAT_VERSION
from geoloc.evaluation.report.results import EvaluateResult as EvaluateResult
from geoloc.evaluation.report.route_photos import route_photos
from geoloc.localization.locator import Locator
from geoloc.localization.search_settings import SearchSettings
from geoloc.models.store import read_log
from geoloc.runtime.task_stream import shuffle_tasks
from geoloc.stages.encode_queries import encode_queries
from geoloc.stages.evaluate_shards import searcher, shard_scanners

METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
RESULTS = "results"


class ProtocolSettings(BaseModel):
    """The protocol of an evaluation, and what differs from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str | None = Field(
        default=None,
        description="Name of the protocol; default: that of the data set (dataset.json), else `tiles`.",
    )
    ks: tuple[int, ...] | None = Field(
        default=None, description="Recall@K for these K; default: the protocol's."
    )
    top_percent: TopPercent | None = Field(
        default=None,
        description="How many answers 'top 1 %' allows; default: the protocol's. All rules are in metrics.json.",
    )


class EvaluateConfig(SearchSettings, ProtocolSettings):
    """Settings of an evaluation."""

    rerankings: tuple[Reranking, ...] = Field(
        default=(),
        description="Orders of the --rerank nearest by floats to measure beside the others: k_reciprocal, graph.",
    )
    code_bits: tuple[int, ...] = Field(
        default=(),
        description="Code lengths to compare, as prefixes of the index's codes; empty: the whole code.",
    )
    truth_radius_m: float = Field(
        default=25.0,
        gt=0,
        description="Tiles within this distance are right without pairs, and in Recall@K<r; metres.",
    )
    leak_radius_m: float = Field(
        default=25.0,
        gt=0,
        description="Warn about test photos closer than this to a training photo, in metres.",
    )
    report: bool = Field(default=True, description="Write report.html.")
    report_queries: int = Field(default=12, ge=0, le=100, description="Queries shown with pictures.")


class EvaluateInputs(BaseModel):
    """Inputs of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    queries: str = Field(
        description="URI of an ingest output with queries/ and, where there are any, pairs/."
    )
    tiles: str | None = Field(
        default=None, description="URI of an ingest output whose tiles/ has places and pictures."
    )
    encoded: str | None = Field(
        default=None,
        description="URI of encoded queries that evaluations share; written when missing. Default: in the output.",
    )
    trained_on: str | None = Field(
        default=None, description="URI of the ingest output of the training data; overlap with it is refused."
    )
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")


def run(
    config: EvaluateConfig, inputs: EvaluateInputs, output: str, *, overwrite: bool = False
) -> EvaluateResult:
    """Evaluate and write `results/` (GeoParquet), `report.html` and, last, `metrics.json` to `output`.

    Encoded queries are kept (`inputs.encoded`, else in the output), so that a second index of the same model
    costs only the search. Raises `ArtifactError` when the output holds another evaluation, `InputError` from
    the sanity checks, `ConfigError` for an unknown protocol, and the errors of opening the index.
    """
    output, inputs = storage.absolute(output), _absolute(inputs)
    protocol = choose_protocol(config.protocol, inputs.queries)
    locator = Locator.open(inputs.index, inputs.snapshot_id, asymmetric=config.asymmetric)
    settings = _figure_settings(config, protocol, locator.snapshot.bits)
    fingerprint = _fingerprint(config, inputs, locator, protocol)
    # Shared: encoded queries lie here too and outlive an evaluation.
    with begin_output(
        output, fingerprint, record=METRICS_NAME, what="an evaluation", overwrite=overwrite, shared=True
    ) as record:
        if record:
            return EvaluateResult.model_validate_json(record).model_copy(update={"reused": True})
        return _evaluate(
            config, inputs, output, locator, protocol, settings, fingerprint, overwrite=overwrite
        )


def _evaluate(
    config: EvaluateConfig,
    inputs: EvaluateInputs,
    output: str,
    locator: Locator,
    protocol: Protocol,
    settings: FigureSettings,
    fingerprint: str,
    *,
    overwrite: bool,
) -> EvaluateResult:
    warnings = _leaks(config, inputs, protocol)
    encoded_uri = _encoded(config, inputs, output, locator, overwrite=overwrite)
    encoded = EncodedTable(encoded_uri)
    photos, tiles = _open_items(protocol, inputs, locator, encoded)
    warnings += _check_items(photos, tiles)
    questions = _questions(config, protocol, photos, tiles, _pairs(inputs.queries))
    located = None
    if PHOTOS_TO_TILES in protocol.directions:
        located = locate_photos(locator, encoded, rerank=config.rerank, search=searcher(locator))
    directions = [_rank(each, settings, located, config.rerankings) for each in questions]
    covered = coverage(locator, located, rerank=config.rerank) if located is not None else []
    routes = None
    if protocol.routes is not None:
        routes = route_accuracy(route_photos(questions[0], encoded.degrees("heading_deg")), protocol.routes)
    quarantined = sum(part_table.read_manifest(encoded_uri).quarantined.values())
    warnings += [*findings(directions, settings), *locator.notes]
    warnings += [f"{quarantined} photos could not be read and are not counted."] if quarantined else []
    result = build_result(
        directions,
        located,
        covered,
        locator,
        settings,
        fingerprint=fingerprint,
        output=output,
        quarantined=quarantined,
        findings=warnings,
        routes=routes,
        data=_data(inputs, locator),
        files=(METRICS_NAME, REPORT_NAME) if config.report else (METRICS_NAME,),
    )
    for sentence in result.findings:
        say(f"evaluate: {sentence}")
    write_answers(
        storage.join(output, RESULTS), locator, located, directions, fingerprint, rerank=config.rerank
    )
    if config.report:
        log = read_log(locator.snapshot.model_uri)
        html = report.render(result, directions, located, _pictures(inputs), config.report_queries, log)
        storage.write_bytes(storage.join(output, REPORT_NAME), html.encode())
    storage.write_bytes(storage.join(output, METRICS_NAME), result.model_dump_json(indent=1).encode())
    return result


def _absolute(inputs: EvaluateInputs) -> EvaluateInputs:
    """The inputs with local paths that do not depend on the working directory, which workers do not share."""
    uris = inputs.model_dump(
        include={"index", "queries", "tiles", "encoded", "trained_on"}, exclude_none=True
    )
    return inputs.model_copy(update={name: storage.absolute(uri) for name, uri in uris.items()})


def choose_protocol(name: str | None, queries: str) -> Protocol:
    """The protocol of that name; without one that of the data set in `queries`, else the default."""
    if name is None:
        note = provenance.dataset_note(queries)
        name = (note or {}).get("protocol") or DEFAULT
    return find_protocol(str(name))


def _figure_settings(config: EvaluateConfig, protocol: Protocol, stored: int) -> FigureSettings:
    """The user's settings, else the protocol's; code lengths must fit the index's `stored` bits."""
    for bits in config.code_bits:
        if bits % 8 or not 8 <= bits <= stored:
            raise ConfigError(
                f"code_bits has {bits}; the index has codes of {stored} bits: give multiples of 8 up to that."
            )
    return FigureSettings(
        ks=config.ks or protocol.ks,
        rule=config.top_percent or protocol.top_percent,
        lengths=tuple(sorted({*config.code_bits, stored})),
        rerank=config.rerank,
        radius_m=config.truth_radius_m,
        asymmetric=config.asymmetric,
    )


def _fingerprint(config: EvaluateConfig, inputs: EvaluateInputs, locator: Locator, protocol: Protocol) -> str:
    part_table.read_manifest(storage.join(inputs.queries, "queries"), kind="queries")
    fit = None if locator.calibration is None else locator.calibration.model_dump_json()
    trained_on, snapshot_id = inputs.trained_on, locator.snapshot.snapshot_id
    content = {
        "version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json", exclude={"routes"} if protocol.routes is None else None),
        "data": _data(inputs, locator),
        "trained_on": trained_on and provenance.data_fingerprints(trained_on, trained_on, snapshot_id),
        "calibration": fit,
    }
    return fingerprint_of(content)


def _data(inputs: EvaluateInputs, locator: Locator) -> dict[str, Any]:
    return provenance.data_fingerprints(
        inputs.queries, inputs.tiles or inputs.queries, locator.snapshot.snapshot_id
    )


def _leaks(config: EvaluateConfig, inputs: EvaluateInputs, protocol: Protocol) -> list[str]:
    """Refuse queries or tiles that the model was trained on; return warnings about suspicious ones."""
    note = provenance.dataset_note(inputs.queries) or {}
    warnings = [str(sentence) for sentence in note.get("findings") or []]
    if inputs.trained_on is None:
        return warnings
    return warnings + leaks.check_leaks(
        inputs.queries,
        inputs.trained_on,
        radius_m=config.leak_radius_m,
        shared_area=protocol.shared_area,
        shuffle=shuffle_tasks,
    )


def _encoded(
    config: EvaluateConfig, inputs: EvaluateInputs, output: str, locator: Locator, *, overwrite: bool
) -> str:
    """URI of the encoded queries; missing ones are encoded first."""
    uri = inputs.encoded or storage.join(output, "encoded")
    encode_queries(
        storage.join(inputs.queries, "queries"),
        locator.snapshot.shared_model_uri,
        uri,
        headings=config.headings,
        overwrite=overwrite and inputs.encoded is None,
    )
    return uri


def _open_items(
    protocol: Protocol, inputs: EvaluateInputs, locator: Locator, encoded: EncodedTable
) -> tuple[PhotoSet, TileSet]:
    """Photos and tiles, with their places where the protocol needs them."""

    def places(root: str, kind: str, column: str) -> pa.Table | None:
        uri = storage.join(root, kind)
        there = protocol.truth == "place" and storage.exists(storage.join(uri, part_table.MANIFEST_NAME))
        return part_table.read(uri, kind=kind, columns=[column, "place_id"]) if there else None

    photos = photo_set(encoded, places(inputs.queries, "queries", "query_id"), locator.snapshot.bits)
    of_tiles = places(inputs.tiles or inputs.queries, "tiles", "tile_id")
    tiles = tile_set(locator.snapshot, of_tiles, shard_scanners(locator.snapshot))
    return photos, tiles


def _check_items(photos: PhotoSet, tiles: TileSet) -> list[str]:
    """Refuse embeddings and ids that no figure can rest on; return warnings about the rest."""
    sanity_checks.check_ids(photos.ids, photos.what)  # of the tiles an index has each id once
    for _, queries in photos.groups:
        sanity_checks.check_embeddings([queries.embedding[:, 0]], f"the {queries.view} queries")
    sanity_checks.check_embeddings(tiles.embeddings(), "the tiles")
    return sanity_checks.constant_codes(tiles.codes(), "the tiles") + [
        f"The {items.what} have no coordinates: recall is by pairs or places alone, and no metres are measured."
        for items in (photos, tiles)
        if not items.located
    ]


def _pairs(queries: str) -> pa.Table | None:
    uri = storage.join(queries, "pairs")
    if not storage.exists(storage.join(uri, part_table.MANIFEST_NAME)):
        return None
    return part_table.read(uri, kind="pairs", columns=["query_id", "tile_id", "relation"])


def _questions(
    config: EvaluateConfig, protocol: Protocol, photos: PhotoSet, tiles: TileSet, pairs: pa.Table | None
) -> list[Questions]:
    """The questions of every direction; refuses queries and a gallery that have nothing in common."""
    radius_m = config.truth_radius_m
    directions = [
        build_questions(protocol, direction, photos, tiles, pairs, radius_m=radius_m, radii_m=(radius_m,))
        for direction in protocol.directions
    ]
    if protocol.truth in ("pairs", "place"):
        for each in directions:
            sanity_checks.check_common(len(each.right.query), len(each.queries), each.gallery.what)
    return directions


def _rank(
    questions: Questions,
    settings: FigureSettings,
    located: LocatedPhotos | None,
    rerankings: tuple[Reranking, ...],
) -> DirectionTables:
    """Rank by all methods; where photos ask for tiles, the search's matches are the re-ranked list."""
    served = None
    if located is not None and questions.direction == PHOTOS_TO_TILES:
        served = located.matches
    return direction_tables(
        questions,
        lengths=settings.lengths,
        rerank=settings.rerank,
        served=served,
        rerankings=rerankings,
        asymmetric=settings.asymmetric,
    )


def _pictures(inputs: EvaluateInputs) -> report.Pictures:
    tiles = inputs.tiles or inputs.queries
    return report.Pictures(storage.join(inputs.queries, "queries"), storage.join(tiles, "tiles"))
