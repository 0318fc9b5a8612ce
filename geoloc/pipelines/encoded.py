"""A queries table through the encoder, by Ray Data: what `evaluation.encoded` reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geoloc import parts, storage, tables
from geoloc.errors import InputError
from geoloc.evaluation.encoded import ENCODED, KIND
from geoloc.images import decode_image
from geoloc.localization.photos import Photo, encode_photos, groups, photo
from geoloc.models.encoder import Encoder
from geoloc.models.store import read_card
from geoloc.pipelines.units import Unit, finish_table, read_unit, run_units, units_of

COLUMNS = ("query_id", "view", "image", "heading_deg", "fov_deg", "lat", "lon")


def encode_queries(queries: str, model: str, output: str, *, headings: int, overwrite: bool = False) -> None:
    """Encode a queries table into the table `output`; finished parts of an earlier run are kept.

    Raises `InputError` for an empty table; photos that cannot be decoded are quarantined with their reason.
    """
    source, card = parts.read_manifest(queries, kind="queries"), read_card(model)
    if not source.rows:
        raise InputError(
            f"The queries table {queries!r} has no rows; ingest photos first.", reason="no_queries"
        )
    fingerprint = storage.sha256_bytes(
        repr((KIND, 1, [part.sha256 for part in source.parts], card.model_id, headings)).encode()
    )
    if parts.begin(output, fingerprint, overwrite=overwrite) is not None:
        return
    units = units_of(source)
    missing = set(parts.missing_parts(output, len(units)))
    arguments = {"queries": queries, "model": model, "output": output, "headings": headings}
    run_units(
        [unit for unit in units if unit.number in missing], QueryEncoder, arguments, what="encoding queries"
    )
    details = {"model_id": card.model_id, "embedding_dim": card.embedding_dim, "bits": card.bits}
    finish_table(output, len(units), kind=KIND, fingerprint=fingerprint, details=details)


class QueryEncoder:
    """An actor that encodes units of a queries table."""

    def __init__(self, queries: str, model: str, output: str, headings: int) -> None:
        self._queries = queries
        self._output = output
        self._headings = headings
        self._encoder = Encoder.open(model)

    def __call__(self, unit: Unit) -> None:
        """Encode the photos of a unit and write its part."""
        table = read_unit(self._queries, unit, COLUMNS)
        good, photos, bad = photos_of(table, self._queries)
        rows = table.take(pa.array(good, pa.int64())).drop_columns(["image", "fov_deg"])
        parts.write_part(self._output, unit.number, self._encoded(rows, photos), bad)

    def _encoded(self, rows: pa.Table, photos: list[Photo]) -> pa.Table:
        columns: dict[str, list[object]] = {
            name: [None] * len(photos) for name in ("candidates", "embedding", "code")
        }
        for positions in groups(photos).values():
            queries = encode_photos(
                self._encoder, [photos[position] for position in positions], headings=self._headings
            )
            for row, position in enumerate(positions):
                columns["candidates"][position] = queries.code.shape[1]
                columns["embedding"][position] = queries.embedding[row].astype("<f2").tobytes()
                columns["code"][position] = np.ascontiguousarray(queries.code[row]).tobytes()
        for name, values in {"featureless": [one.featureless for one in photos], **columns}.items():
            rows = rows.append_column(name, pa.array(values, ENCODED.field(name).type))
        return tables.conform(rows, ENCODED)


def photos_of(table: pa.Table, source: str) -> tuple[list[int], list[Photo], pa.Table]:
    """(positions of the rows that can be used, their decoded photos, the quarantined rows) of a queries table."""
    good: list[int] = []
    photos: list[Photo] = []
    bad: list[dict[str, str]] = []
    for number, row in enumerate(table.to_pylist()):
        try:
            image = decode_image(row["image"])
            photos.append(
                photo(image, view=row["view"], heading_deg=row["heading_deg"], fov_deg=row["fov_deg"])
            )
            good.append(number)
        except InputError as error:
            key = str(row["query_id"])
            bad.append({"key": key, "reason": error.reason, "detail": str(error), "source": source})
    return good, photos, pa.Table.from_pylist(bad, schema=tables.QUARANTINE)
