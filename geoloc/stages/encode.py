"""Encode: tiles to hash codes and embeddings, part by part, with a pool of actors that each hold the model.

Part k of the codes comes from part k of the tiles alone. Killed halfway and run again, the stage makes the missing
parts, and the table is that of one whole run. This holds for one kind of machine: processors round differently.
An actor decodes and runs the network with one CPU thread, so actors scale with the CPUs. Several share a GPU: one
decodes while another computes.

Memory of an actor: the model, one part of tiles as encoded bytes, and `batch_size` decoded pictures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.arrays import Codes, Float32Array, Pixels
from geoloc.core.errors import CorruptArtifact, InputError
from geoloc.core.fingerprint import PLAN_NAME, fingerprint_of
from geoloc.core.images import decode_image
from geoloc.core.part_table import Part, TableDraft, TableManifest
from geoloc.core.progress import say
from geoloc.geometry.clouds import cloud_rows
from geoloc.models.built_in import model_location
from geoloc.models.card import ModelCard, read_card
from geoloc.models.encoder import Encoded, Encoder
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import await_resources, cpu_count, ensure_ray, gpu_count
from geoloc.runtime.table_job import PartResult, Workers
from geoloc.sources.quarantine import RefusedRow

_VERSION = 1
_ACTORS_PER_GPU = 8
_CONSTANT_FROM_ROWS = 8  # fewer tiles may honestly look alike
PLACES = pa.schema([schemas.TILES.field(name) for name in ("tile_id", "lat", "lon", "cell")])
_COLUMNS = [*PLACES.names, "metres_per_pixel", "image"]


class EncodeConfig(BaseModel):
    """Settings of encoding tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=64, ge=1, le=4096, description="Tiles in a forward pass.")
    num_actors: int | None = Field(
        default=None,
        ge=1,
        description="Copies of the model; default: one for each CPU, or eight for each GPU.",
    )
    gpu: bool = Field(default=False, description="Run the network on GPUs.")
    embeddings: bool = Field(
        default=True, description="Store float16 embeddings beside the codes, for re-ranking."
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of bad tiles that stops the stage."
    )


class EncodeInputs(BaseModel):
    """The tiles and the model that encodes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: str = Field(description="URI of a tiles table, or of an ingest output that holds one.")
    model: str = Field(description="URI of a model directory; builtin: the one that ships with geoloc.")


class EncodeResult(BaseModel):
    """The codes table that was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    rows: int
    quarantined: dict[str, int]
    model_id: str
    bits: int
    embedding_dim: int | None


def run(config: EncodeConfig, inputs: EncodeInputs, output: str, *, overwrite: bool = False) -> EncodeResult:
    """Encode all tiles into the codes table `output`.

    Raises `ModelMismatch` when tiles do not fit the model, `CorruptArtifact` when the model gives NaN or the same
    embedding for everything, `TooManyBadRows` when more than `max_bad_share` of the tiles cannot be decoded.
    """
    start = time.monotonic()
    output, model = storage.absolute(output), model_location(inputs.model)
    tiles = tiles_table(storage.absolute(inputs.tiles))
    source, card = part_table.read_manifest(tiles, kind="tiles"), read_card(model)
    fingerprint = fingerprint_of(
        ["codes", _VERSION, source.checksums, card.model_id, config.embeddings, config.batch_size]
    )
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            units = table_job.Units(source.parts, lambda part: {"tiles": tiles, "part": part.model_dump()})
            written, totals = make_parts(config, table, model, units, TileEncoder)
            manifest = publish(config, table, model, written, totals)
    return result(config, output, manifest, card, reused=reused, start_s=start)


def tiles_table(uri: str) -> str:
    """The tiles table that a user names: itself, or `tiles` within an ingest output."""
    inner = storage.join(uri, "tiles")
    own = storage.exists(storage.join(uri, PLAN_NAME))
    return inner if not own and storage.exists(storage.join(inner, PLAN_NAME)) else uri


def make_parts(
    config: EncodeConfig, table: TableDraft, model: str, units: Sequence[Any], maker: type[Any]
) -> tuple[list[Part], Counter[str]]:
    """Make the parts of a codes table by a pool of actors that each hold a `maker`."""
    return table_job.make_parts(
        table,
        units,
        maker,
        what="encoding tiles",
        workers=_workers(config),
        arguments=(model, config.batch_size, config.gpu, config.embeddings),
    )


def publish(
    config: EncodeConfig,
    table: TableDraft,
    model: str,
    written: list[Part],
    totals: Counter[str],
    **details: Any,
) -> TableManifest:
    """Publish a codes table; `details` are added to what its manifest says of the model.

    Raises `TooManyBadRows` when too many tiles were refused, `CorruptArtifact` when all embeddings are the same.
    """
    rows, refused = sum(part.rows for part in written), table_job.quarantined(totals)
    table_job.check_bad_share("tiles", table.plan.uri, rows, refused, config.max_bad_share)
    if rows >= _CONSTANT_FROM_ROWS and not totals["varied"]:
        raise CorruptArtifact(
            f"The model {model!r} gives the same embedding for all {rows:,} tiles, so it cannot tell them apart; "
            "train it again (its training collapsed)."
        )
    described = model_details(config, read_card(model)) | details
    return table.publish(kind="codes", parts=written, quarantined=refused, details=described)


def model_details(config: EncodeConfig, card: ModelCard) -> dict[str, Any]:
    """What the manifest of a codes table says of the model."""
    return {
        "model_id": card.model_id,
        "bits": card.bits,
        "embedding_dim": card.embedding_dim if config.embeddings else None,
    }


def result(
    config: EncodeConfig,
    output: str,
    manifest: TableManifest,
    card: ModelCard,
    *,
    reused: bool,
    start_s: float,
) -> EncodeResult:
    """Print one line about a codes table and return its result."""
    say(table_job.summary("codes", manifest) + (" (reused)" if reused else ""))
    return EncodeResult(
        output=output,
        reused=reused,
        seconds=round(time.monotonic() - start_s, 3),
        rows=manifest.rows,
        quarantined=manifest.quarantined,
        **model_details(config, card),
    )


def _workers(config: EncodeConfig) -> Workers:
    ensure_ray()
    if not config.gpu:
        return Workers(actors=config.num_actors or cpu_count(), growing=config.num_actors is None)
    await_resources(0, 1, what="gpu is set: encoding needs", remedy="leave it out or add a GPU node")
    per_gpu = max(1, min(_ACTORS_PER_GPU, cpu_count() // gpu_count()))
    actors = config.num_actors or per_gpu * gpu_count()
    growing = config.num_actors is None
    return Workers(actors=actors, gpus=min(1.0, gpu_count() / actors), growing=growing)


class DecodedTile(NamedTuple):
    """A tile's picture uint8[H, W, 3], the ground it shows in metres, and the points that the model sees of it."""

    picture: Pixels
    extent_m: float
    cloud: Float32Array | None


def columns_of(encoder: Encoder) -> list[str]:
    """The columns of a tiles table that encoding needs; points only where the model takes them."""
    return [*_COLUMNS, "points"] if encoder.takes_clouds else _COLUMNS


def decode_tile(encoder: Encoder, rows: pa.Table | pa.RecordBatch, row: int) -> DecodedTile:
    """One row of a tiles table with the columns of `columns_of`.

    Raises `InputError` for a picture that cannot be decoded and, where the model takes points, for a row without any.
    """
    picture = decode_image(rows["image"][row].as_py())
    extent_m = min(picture.shape[:2]) * rows["metres_per_pixel"][row].as_py()
    if not encoder.takes_clouds:
        return DecodedTile(picture, extent_m, None)
    points = rows["points"][row]
    if not points.is_valid:
        raise InputError(
            f"the tile has no points, which the model {encoder.model_id!r} compares", reason="no_points"
        )
    cloud = cloud_rows(points.values.to_numpy(zero_copy_only=False))
    return DecodedTile(picture, extent_m, encoder.prepare_clouds([cloud])[0])


def encode_decoded(encoder: Encoder, tiles: Sequence[DecodedTile]) -> Encoded:
    """Embeddings [N, D] and codes [N, bits // 8] of decoded tiles."""
    prepared = encoder.prepare(
        [tile.picture for tile in tiles], "aerial", extent_m=[tile.extent_m for tile in tiles]
    )
    clouds = [tile.cloud for tile in tiles if tile.cloud is not None]
    return encoder.encode(prepared, "aerial", np.stack(clouds) if clouds else None)


@dataclass(frozen=True)
class TileBatch:
    """Tiles to encode together, and their rows of tile_id, lat, lon and cell."""

    places: pa.Table
    tiles: Sequence[DecodedTile]


class CodeMaker:
    """Makes rows of the codes table with one copy of the model."""

    def __init__(self, model: str, *, gpu: bool, embeddings: bool) -> None:
        self._model = model
        self.encoder = Encoder.open(model, device="cuda" if gpu else "cpu", threads=1)
        self._embeddings = embeddings

    def rows(self, batches: Iterable[TileBatch]) -> tuple[pa.Table, tuple[tuple[str, int], ...]]:
        """Rows of all batches, and whether their embeddings differ (`varied`).

        Raises `CorruptArtifact` when the model gives NaN, `ModelMismatch` when tiles do not fit it.
        """
        places: list[pa.Table] = []
        embeddings: list[Float32Array] = []
        codes: list[Codes] = []
        for batch in batches:
            encoded = encode_decoded(self.encoder, batch.tiles)
            self._check(encoded, batch.places)
            places.append(batch.places)
            embeddings.append(encoded.embedding)
            codes.append(encoded.code)
        embedding = np.concatenate(embeddings) if embeddings else np.zeros((0, self.encoder.embedding_dim))
        code = np.concatenate(codes) if codes else np.zeros((0, self.encoder.bits // 8), np.uint8)
        varied = int(len(embedding) > 1 and float(np.ptp(embedding, axis=0).max()) > 1e-4)
        joined = pa.concat_tables(places) if places else PLACES.empty_table()
        return self._table(joined, code, embedding), (("varied", varied),)

    def _check(self, encoded: Encoded, places: pa.Table) -> None:
        bad = np.flatnonzero(~np.isfinite(encoded.embedding).all(axis=1))
        if len(bad):
            tile_id = places["tile_id"][int(bad[0])].as_py()
            raise CorruptArtifact(
                f"The model {self._model!r} gives NaN for tile {tile_id!r}; its weights are broken: train it again."
            )

    def _table(self, places: pa.Table, code: Codes, embedding: npt.NDArray[Any]) -> pa.Table:
        """Rows of the codes table: code uint8[N, bits // 8], embedding [N, D] rounded to float16."""
        schema = schemas.codes_schema(code.shape[1], embedding.shape[1] if self._embeddings else None)
        columns = {name: places[name] for name in PLACES.names}
        packed = pa.py_buffer(np.ascontiguousarray(code).tobytes())
        columns["code"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(code.shape[1]), len(code), [None, packed]
        )
        if self._embeddings:
            values = pa.array(embedding.astype(np.float16).ravel(), pa.float16())
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, embedding.shape[1])
        columns["model_id"] = pa.array([self.encoder.model_id] * len(code), pa.string())
        return schemas.conform(pa.table(columns), schema)


class TileEncoder:
    """Encodes parts of a tiles table (a Ray Data actor holds one)."""

    def __init__(self, model: str, batch_size: int, gpu: bool, embeddings: bool) -> None:
        self._maker = CodeMaker(model, gpu=gpu, embeddings=embeddings)
        self._batch_size = batch_size

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """The codes of one part of tiles."""
        part = Part.model_validate(unit["part"])
        table = part_table.read_part(unit["tiles"], part, columns_of(self._maker.encoder))
        refused: list[RefusedRow] = []
        rows, counts = self._maker.rows(self._batches(table, part.name, refused))
        return PartResult(rows, refused, counts)

    def _batches(self, table: pa.Table, source: str, refused: list[RefusedRow]) -> Iterator[TileBatch]:
        """Batches of decoded tiles; rows that cannot be decoded are refused."""
        places = table.select(PLACES.names)

        def batch(rows: list[int], tiles: list[DecodedTile]) -> TileBatch:
            return TileBatch(places.take(pa.array(rows, pa.int64())), tiles)

        rows: list[int] = []
        tiles: list[DecodedTile] = []
        for row in range(table.num_rows):
            try:
                tiles.append(decode_tile(self._maker.encoder, table, row))
                rows.append(row)
            except InputError as error:
                refused.append(RefusedRow(table["tile_id"][row].as_py(), error.reason, str(error), source))
            if len(rows) == self._batch_size:
                yield batch(rows, tiles)
                rows, tiles = [], []
        if rows:
            yield batch(rows, tiles)
