"""A queries table through the encoder, part by part: what `evaluation.encoded` reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from geoloc.core import part_table, schemas
from geoloc.core.errors import InputError
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.images import decode_image
from geoloc.core.part_table import Part, TableManifest
from geoloc.evaluation.ranking.encoded_queries import ENCODED, KIND
from geoloc.localization.query_photos import Photo, encode_photos, groups, photo
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import cpu_count, ensure_ray
from geoloc.runtime.table_job import PartResult, Workers
from geoloc.sources.quarantine import RefusedRow

_VERSION = 3
UNIT_ROWS = 128
_COLUMNS = ("query_id", "view", "image", "heading_deg", "fov_deg", "lat", "lon")


def encode_queries(
    queries: str, model: str, output: str, *, headings: int, overwrite: bool = False
) -> TableManifest:
    """Encode a queries table into the table `output`; finished parts of an earlier run are kept.

    Raises `InputError` for an empty table; photos that cannot be decoded are quarantined with their reason.
    """
    source, card = part_table.read_manifest(queries, kind="queries"), read_card(model)
    if not source.rows:
        raise InputError(
            f"The queries table {queries!r} has no rows; ingest photos first.", reason="no_queries"
        )
    fingerprint = fingerprint_of([KIND, _VERSION, source.checksums, card.model_id, headings])
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        if table.finished is not None:
            return table.finished
        ensure_ray()
        written, totals = table_job.make_parts(
            table,
            _units(queries, source),
            QueryEncoder,
            what="encoding queries",
            workers=Workers(actors=cpu_count(), growing=True),
            arguments=(model, headings),
        )
        return table.publish(
            kind=KIND,
            parts=written,
            quarantined=table_job.quarantined(totals),
            details={"model_id": card.model_id, "embedding_dim": card.embedding_dim, "bits": card.bits},
        )


def _units(queries: str, source: TableManifest) -> list[dict[str, Any]]:
    """Ranges of rows: parts of a queries table may be too few to keep all CPUs busy."""
    return [
        {"queries": queries, "part": part.model_dump(), "start": start}
        for part in source.parts
        for start in range(0, part.rows, UNIT_ROWS)
    ]


class QueryEncoder:
    """Encodes ranges of rows of a queries table (a Ray Data actor holds one)."""

    def __init__(self, model: str, headings: int) -> None:
        self._headings = headings
        self._encoder = Encoder.open(model, threads=1)

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """The rows of one range."""
        table = part_table.read_part(unit["queries"], Part.model_validate(unit["part"]), _COLUMNS)
        table = table.slice(unit["start"], UNIT_ROWS)
        kept: list[int] = []
        photos: list[Photo] = []
        refused: list[RefusedRow] = []
        for number, row in enumerate(table.to_pylist()):
            try:
                image = decode_image(row["image"])
                photos.append(
                    photo(image, view=row["view"], heading_deg=row["heading_deg"], fov_deg=row["fov_deg"])
                )
                kept.append(number)
            except InputError as error:
                refused.append(RefusedRow(row["query_id"], error.reason, str(error), unit["queries"]))
        rows = table.take(pa.array(kept, pa.int64())).drop_columns(["image", "fov_deg"])
        return PartResult(self._encode(rows, photos), refused)

    def _encode(self, rows: pa.Table, photos: list[Photo]) -> pa.Table:
        names = ("candidates", "embedding", "code", "weights", "columns", "lit")
        columns: dict[str, list[object]] = {name: [None] * len(photos) for name in names}
        for positions in groups(photos).values():
            chosen = [photos[position] for position in positions]
            queries = encode_photos(self._encoder, chosen, headings=self._headings)
            for row, position in enumerate(positions):
                columns["candidates"][position] = queries.code.shape[1]
                columns["embedding"][position] = queries.embedding[row].astype("<f2").tobytes()
                columns["code"][position] = np.ascontiguousarray(queries.code[row]).tobytes()
                columns["weights"][position] = queries.weights_of(row).tobytes()
                columns["columns"][position] = queries.columns
                columns["lit"][position] = (
                    queries.shown[row].tobytes()
                    if queries.limited[row] and queries.shown is not None
                    else None
                )
        for name, values in {"featureless": [one.featureless for one in photos], **columns}.items():
            rows = rows.append_column(name, pa.array(values, ENCODED.field(name).type))
        return schemas.conform(rows, ENCODED)
