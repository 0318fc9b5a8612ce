"""Stage `calibrate`: photos of known position teach an index which photos to locate, with what radius and confidence.

<output>/photos, <output>/strangers   the photos as tables
<output>/queries                      all of them in one table, with pictures of no place; see `_all_queries`
<output>/encoded                      what the model makes of them
<output>/calibration.json             the fit, which lies with the index too; written last
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import InputError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization.calibration import Calibration, query_kind, save_calibration, ship_calibration
from geoloc.localization.calibration_fit import FALSE_ACCEPTS, NotEnoughQueries
from geoloc.localization.calibration_photos import KnownPhotos, Strangers, calibrate_kind
from geoloc.localization.locator import Locator
from geoloc.localization.no_place import no_place_picture
from geoloc.localization.query_photos import HEADINGS
from geoloc.models.card import RECIPE_NAME
from geoloc.recipe.recipe import Recipe
from geoloc.sources.folder import ANYWHERE_HELP
from geoloc.stages import ingest
from geoloc.stages.encode_queries import encode_queries
from geoloc.stages.ingest import IngestConfig, IngestInputs

_VERSION = 2
RECORD_NAME = "calibration.json"
PHOTOS, OTHER_PLACE, NO_PLACE = "photos", "other_place", "no_place"
_FEWEST_STRANGERS = 20


class CalibrateConfig(BaseModel):
    """How an index is calibrated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rerank: int = Field(
        default=100, ge=0, description="Nearest codes to order by float embeddings; that of later searches."
    )
    headings: int = Field(
        default=HEADINGS, ge=1, description="Headings to try for a photo of unknown heading."
    )
    hidden_m: float | None = Field(
        default=None,
        gt=0,
        description="Metres around a photo whose tiles are hidden, to learn what a photo of another place looks like; "
        "default: two sides of a tile.",
    )
    false_accepts: float = Field(
        default=FALSE_ACCEPTS,
        gt=0,
        lt=0.5,
        description="Share of photos of other places that may be located.",
    )
    no_place: int = Field(
        default=120, ge=0, description="Pictures of no place to learn from, for each kind of query."
    )
    known_heading_only: bool = Field(
        default=False,
        description="Fit no kind of query of unknown heading from photos whose heading is known.",
    )
    photos_anywhere: bool = Field(default=False, description=ANYWHERE_HELP)


class CalibrateInputs(BaseModel):
    """Photos of known position and the index that they calibrate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    photos: list[str] = Field(
        min_length=1,
        description="URIs of CSV or GeoJSON files with photo, lat, lon, ... of the index's area (60 photos of each "
        "kind of query at least, more for narrower radii), or of ingest outputs. They should lie as later photos will: "
        "anywhere, not at the centres of tiles.",
    )
    strangers: list[str] = Field(
        default=[],
        description="URIs of photos of other places in the same form; none of them should be located.",
    )
    ship: str | None = Field(
        default=None,
        description="URI of a model directory that gets the calibration too: indexes that are built with it start with "
        "a calibration, marked as transferred.",
    )
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")


class KindResult(BaseModel):
    """A kind of query: how many photos were fitted, strangers by their kind, and the log odds to be located."""

    model_config = ConfigDict(frozen=True)

    photos: int
    strangers: dict[str, int]
    threshold: float


class CalibrateResult(BaseModel):
    """What was calibrated; `not_calibrated` has a sentence for every kind of query that could not be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    snapshot_id: str
    reused: bool
    seconds: float
    query_kinds: dict[str, KindResult]
    not_calibrated: list[str]

    @property
    def sound(self) -> bool:
        """Whether any kind of query was calibrated."""
        return bool(self.query_kinds)


class _Record(BaseModel):
    """The content of `calibration.json`."""

    fingerprint: str
    calibration: Calibration
    not_calibrated: list[str]


def run(
    config: CalibrateConfig, inputs: CalibrateInputs, output: str, *, overwrite: bool = False
) -> CalibrateResult:
    """Fit every kind of query of which there are enough photos, and store the calibration with the index.

    Photos of known heading are fitted as of unknown heading too. Where no kind of query could be fitted, nothing is
    stored, and the result has a sentence for each. Raises `InputError` when no photo has a position, `ArtifactError`
    when the output holds other work, and the errors of opening the index and reading photos.
    """
    start, output, index = time.monotonic(), storage.absolute(output), storage.absolute(inputs.index)
    locator = Locator(Snapshot.open(index, inputs.snapshot_id))
    photos = _tables(inputs.photos, storage.join(output, "photos"), config, overwrite=overwrite)
    strangers = _tables(inputs.strangers, storage.join(output, "strangers"), config, overwrite=overwrite)
    if not photos:
        raise InputError("There are no photos to calibrate with; give --photos.", reason="no_queries")
    fingerprint = _fingerprint(config, photos, strangers, locator.snapshot.snapshot_id)
    with begin_output(
        output, fingerprint, record=RECORD_NAME, what="a calibration", overwrite=overwrite, shared=True
    ) as held:
        if held is None:
            record = _calibrated(config, locator, photos, strangers, output, fingerprint)
            storage.write_bytes(storage.join(output, RECORD_NAME), record.model_dump_json(indent=1).encode())
        else:
            record = _Record.model_validate_json(held)
    if record.calibration.query_kinds:
        save_calibration(index, record.calibration)
    if inputs.ship is not None and record.calibration.query_kinds:
        ship_calibration(inputs.ship, record.calibration)
    for sentence in record.not_calibrated:
        say(f"calibrate: {sentence}")
    kinds = {
        name: KindResult(photos=fit.photos, strangers=fit.strangers, threshold=fit.threshold)
        for name, fit in record.calibration.query_kinds.items()
    }
    return CalibrateResult(
        output=output,
        snapshot_id=record.calibration.snapshot_id,
        reused=held is not None,
        seconds=round(time.monotonic() - start, 3),
        query_kinds=kinds,
        not_calibrated=record.not_calibrated,
    )


def _tables(uris: Sequence[str], output: str, config: CalibrateConfig, *, overwrite: bool) -> list[str]:
    """URIs of queries tables of the photos, which are ingested first where they are no tables."""
    tables = []
    for number, uri in enumerate(uris):
        place = storage.absolute(uri)
        if not storage.exists(storage.join(place, "queries", part_table.MANIFEST_NAME)):
            place = storage.join(output, str(number))
            ingest.run(
                IngestConfig(photos_anywhere=config.photos_anywhere),
                IngestInputs(photos=uri),
                place,
                overwrite=overwrite,
            )
        tables.append(storage.join(place, "queries"))
    return tables


def _fingerprint(config: CalibrateConfig, photos: list[str], strangers: list[str], snapshot_id: str) -> str:
    tables = [_checksums(photos), _checksums(strangers)]
    return fingerprint_of(["calibration", _VERSION, config.model_dump(mode="json"), tables, snapshot_id])


def _checksums(tables: list[str]) -> list[list[str]]:
    return [part_table.read_manifest(uri, kind="queries").checksums for uri in tables]


def _calibrated(
    config: CalibrateConfig,
    locator: Locator,
    photos: list[str],
    strangers: list[str],
    output: str,
    fingerprint: str,
) -> _Record:
    snapshot = locator.snapshot
    recipe = Recipe.load(storage.join(snapshot.model_uri, RECIPE_NAME)).model
    queries = _all_queries(config, photos, strangers, output, recipe.panorama_px)
    encoded = storage.join(output, "encoded")
    encode_queries(queries, snapshot.shared_model_uri, encoded, headings=config.headings, overwrite=True)
    known, others = _by_kind(EncodedTable(encoded))
    if not known:
        raise InputError("No photo has a known position; give photos with lat and lon.", reason="no_queries")
    fits, sentences = {}, []
    for name, group in known.items():
        try:
            fits[name] = calibrate_kind(
                locator,
                group,
                others.get(name, ()),
                rerank=config.rerank,
                hidden_m=config.hidden_m or 2.0 * recipe.tile_m,
                false_accepts=config.false_accepts,
            )
        except NotEnoughQueries as error:
            sentences.append(f"{name} is not calibrated: {error}")
    calibration = Calibration(
        snapshot_id=snapshot.snapshot_id,
        model_id=snapshot.manifest.model.model_id,
        rerank=locator.reranked(config.rerank),
        asymmetric=locator.asymmetric,
        bits=snapshot.bits,
        tiles=snapshot.count,
        spacing_m=locator.sample.spacing_m,
        origin=None,
        transferred=False,
        query_kinds=fits,
    )
    return _Record(fingerprint=fingerprint, calibration=calibration, not_calibrated=sentences)


def _by_kind(table: EncodedTable) -> tuple[dict[str, KnownPhotos], dict[str, list[Strangers]]]:
    """Photos of known position and strangers, by kind of query."""
    lat, lon = table.degrees("lat"), table.degrees("lon")
    source = np.array([name.split("/", 1)[0] for name in table.query_ids.to_pylist()])
    usable = ~table.featureless & (np.isfinite(lat) & np.isfinite(lon) | (source != PHOTOS))
    known: dict[str, KnownPhotos] = {}
    others: dict[str, list[Strangers]] = {}
    for rows, group in table.groups():
        kind = query_kind(group.view, group.heading_known)
        for label in (PHOTOS, OTHER_PLACE, NO_PLACE):
            chosen = np.flatnonzero(usable[rows] & (source[rows] == label))
            if label == PHOTOS and len(chosen):
                known[kind] = KnownPhotos(group.rows(chosen), lat[rows[chosen]], lon[rows[chosen]])
            elif label != PHOTOS and len(chosen) >= _FEWEST_STRANGERS:
                others.setdefault(kind, []).append(Strangers(label, group.rows(chosen)))
            elif label == OTHER_PLACE and len(chosen):
                say(
                    f"calibrate: {len(chosen)} photos of other places of the kind {kind} are not used; "
                    f"give {_FEWEST_STRANGERS} or more."
                )
    return known, others


def _all_queries(
    config: CalibrateConfig,
    photos: list[str],
    strangers: list[str],
    output: str,
    panorama_px: tuple[int, int],
) -> str:
    """URI of one table of all photos; their ids begin with their source: `photos/`, `other_place/`, `no_place/`.

    Those of known heading come a second time without it. One table is encoded by one pool of workers.
    """
    # Of one heading candidate there is no other kind of query.
    twice = config.headings > 1 and not config.known_heading_only
    content = [_VERSION, _checksums(photos), _checksums(strangers), config.no_place, twice, panorama_px]

    def labelled() -> Iterator[pa.Table]:
        for label, tables in ((PHOTOS, photos), (OTHER_PLACE, strangers)):
            for uri in tables:
                for part in part_table.iterate(uri, kind="queries"):
                    yield _from(label, part)
        if config.no_place:
            yield _from(NO_PLACE, _no_place_pictures(config, photos, panorama_px))

    def parts() -> Iterator[pa.Table]:
        for part in labelled():
            yield part
            known = _without_heading(part)
            if twice and known.num_rows:
                yield known

    return _write(storage.join(output, "queries"), parts(), fingerprint_of(["calibration queries", *content]))


def _write(uri: str, parts: Iterable[pa.Table], fingerprint: str) -> str:
    """A queries table written part by part, so that one part is held at a time."""
    with part_table.begin(uri, fingerprint, overwrite=True) as draft:
        if draft.finished is None:
            written = [draft.write_part(number, part) for number, part in enumerate(parts)]
            draft.publish(kind="queries", parts=written)
    return uri


def _from(label: str, part: pa.Table) -> pa.Table:
    names = pa.compute.binary_join_element_wise(f"{label}/", part["query_id"], "")
    return part.set_column(part.schema.get_field_index("query_id"), part.schema.field("query_id"), names)


def _without_heading(part: pa.Table) -> pa.Table:
    known = part.filter(pa.compute.is_valid(part["heading_deg"]))
    nothing = pa.nulls(known.num_rows, pa.float64())
    return known.set_column(known.schema.get_field_index("heading_deg"), "heading_deg", nothing)


def _no_place_pictures(config: CalibrateConfig, photos: list[str], panorama_px: tuple[int, int]) -> pa.Table:
    """Queries with pictures of no place, of the views, fields of view and shapes that the photos have."""
    columns = ["view", "heading_deg", "fov_deg"]
    given = [
        row for uri in photos for row in part_table.read(uri, kind="queries", columns=columns).to_pylist()
    ]
    rows = []
    for view in sorted({row["view"] for row in given}):
        own = [row for row in given if row["view"] == view]
        for number in range(config.no_place):
            like = own[number * len(own) // config.no_place]
            height, width = panorama_px if like["fov_deg"] >= 360.0 and view != "drone" else (256, 256)
            picture = io.BytesIO()
            Image.fromarray(no_place_picture(number, height, width)).save(picture, "JPEG", quality=90)
            rows.append(
                {
                    **like,
                    "query_id": f"{view}-{number:04d}",
                    "image": picture.getvalue(),
                    "lat": None,
                    "lon": None,
                }
            )
    return pa.Table.from_pylist(rows, schema=schemas.QUERIES)
