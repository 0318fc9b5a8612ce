"""Encode: tiles to hash codes and embeddings, part by part, with a pool of actors that each hold the model.

Part k of the codes comes from part k of the tiles alone, so killed halfway and run again the stage makes the
missing parts and the table is the same as of one run through (on the same kind of machine: floating point
differs between processors by rounding). An actor decodes and runs the network with one CPU thread, so actors
scale with the CPUs; several share a GPU, one decoding while another computes.

Memory of an actor: the model, one part of tiles as encoded bytes, and `batch_size` decoded pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.arrays import Float32Array
from geoloc.core.errors import CorruptArtifact, InputError
from geoloc.core.fingerprint import PLAN_NAME, fingerprint_of
from geoloc.core.images import decode_image
from geoloc.core.part_table import Part, TableDraft, TableManifest
from geoloc.core.progress import say
from geoloc.models.encoder import Encoded, Encoder
from geoloc.models.store import read_card
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import await_resources, cpu_count, ensure_ray, gpu_count
from geoloc.runtime.table_job import PartResult, Workers
from geoloc.sources.quarantine import RefusedRow

_VERSION = 1
_ACTORS_PER_GPU = 8
_CONSTANT_FROM_ROWS = 8  # fewer tiles may honestly look alike
_COLUMNS = ["tile_id", "lat", "lon", "cell", "metres_per_pixel", "image"]


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
    model: str = Field(description="URI of a model directory.")


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
    output, model = storage.absolute(output), storage.absolute(inputs.model)
    tiles = tiles_table(storage.absolute(inputs.tiles))
    source, card = part_table.read_manifest(tiles, kind="tiles"), read_card(model)
    fingerprint = fingerprint_of(
        ["codes", _VERSION, source.checksums, card.model_id, config.embeddings, config.batch_size]
    )
    details = {
        "model_id": card.model_id,
        "bits": card.bits,
        "embedding_dim": card.embedding_dim if config.embeddings else None,
    }
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            units = table_job.Units(source.parts, lambda part: {"tiles": tiles, "part": part.model_dump()})
            manifest = _make(config, table, model, units, details)
    say(table_job.summary("codes", manifest) + (" (reused)" if reused else ""))
    return EncodeResult(
        output=output,
        reused=reused,
        seconds=round(time.monotonic() - start, 3),
        rows=manifest.rows,
        quarantined=manifest.quarantined,
        **details,
    )


def tiles_table(uri: str) -> str:
    """The tiles table that a user names: itself, or `tiles` within an ingest output."""
    inner = storage.join(uri, "tiles")
    own = storage.exists(storage.join(uri, PLAN_NAME))
    return inner if not own and storage.exists(storage.join(inner, PLAN_NAME)) else uri


def _make(
    config: EncodeConfig, table: TableDraft, model: str, units: Sequence[Any], details: dict[str, Any]
) -> TableManifest:
    written, totals = table_job.make_parts(
        table,
        units,
        TileEncoder,
        what="encoding tiles",
        workers=_workers(config),
        arguments=(model, config.batch_size, config.gpu, config.embeddings),
    )
    rows, refused = sum(part.rows for part in written), table_job.quarantined(totals)
    table_job.check_bad_share("tiles", table.plan.uri, rows, refused, config.max_bad_share)
    if rows >= _CONSTANT_FROM_ROWS and not totals["varied"]:
        raise CorruptArtifact(
            f"The model {model!r} gives the same embedding for all {rows:,} tiles, so it cannot tell them apart; "
            "train it again (its training collapsed)."
        )
    return table.publish(kind="codes", parts=written, quarantined=refused, details=details)


def _workers(config: EncodeConfig) -> Workers:
    ensure_ray()
    if not config.gpu:
        return Workers(actors=config.num_actors or cpu_count(), growing=config.num_actors is None)
    await_resources(0, 1, what="gpu is set: encoding needs", remedy="leave it out or add a GPU node")
    per_gpu = max(1, min(_ACTORS_PER_GPU, cpu_count() // gpu_count()))
    actors = config.num_actors or per_gpu * gpu_count()
    growing = config.num_actors is None
    return Workers(actors=actors, gpus=min(1.0, gpu_count() / actors), growing=growing)


class TileEncoder:
    """Encodes parts of a tiles table (a Ray Data actor holds one)."""

    def __init__(self, model: str, batch_size: int, gpu: bool, embeddings: bool) -> None:
        self._model = model
        self._encoder = Encoder.open(model, device="cuda" if gpu else "cpu", threads=1)
        self._batch_size = batch_size
        self._embeddings = embeddings

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """The codes of one part of tiles."""
        part = Part.model_validate(unit["part"])
        table = part_table.read_part(unit["tiles"], part, _COLUMNS)
        refused: list[RefusedRow] = []
        kept: list[int] = []
        embeddings: list[Float32Array] = []
        codes: list[npt.NDArray[np.uint8]] = []
        for rows, pictures, extents in self._decoded(table, part.name, refused):
            encoded = self._encoder.encode(
                self._encoder.prepare(pictures, "aerial", extent_m=extents), "aerial"
            )
            self._check(encoded, table, rows)
            kept += rows
            embeddings.append(encoded.embedding)
            codes.append(encoded.code)
        embedding = np.concatenate(embeddings) if embeddings else np.zeros((0, self._encoder.embedding_dim))
        code = np.concatenate(codes) if codes else np.zeros((0, self._encoder.bits // 8), np.uint8)
        varied = int(len(embedding) > 1 and float(np.ptp(embedding, axis=0).max()) > 1e-4)
        return PartResult(
            self._table(table.take(pa.array(kept, pa.int64())), code, embedding),
            refused,
            (("varied", varied),),
        )

    def _decoded(
        self, table: pa.Table, source: str, refused: list[RefusedRow]
    ) -> Iterator[tuple[list[int], list[npt.NDArray[np.uint8]], list[float | None]]]:
        """Batches of row numbers, pictures and the ground they show; rows that cannot be decoded are refused."""
        images, ids = table["image"], table["tile_id"]
        sizes = table["metres_per_pixel"].to_pylist()

        def extents(rows: list[int], pictures: list[npt.NDArray[np.uint8]]) -> list[float | None]:
            return [min(one.shape[:2]) * sizes[row] for row, one in zip(rows, pictures, strict=True)]

        rows: list[int] = []
        pictures: list[npt.NDArray[np.uint8]] = []
        for row in range(table.num_rows):
            try:
                pictures.append(decode_image(images[row].as_py()))
                rows.append(row)
            except InputError as error:
                refused.append(RefusedRow(ids[row].as_py(), error.reason, str(error), source))
            if len(rows) == self._batch_size:
                yield rows, pictures, extents(rows, pictures)
                rows, pictures = [], []
        if rows:
            yield rows, pictures, extents(rows, pictures)

    def _check(self, encoded: Encoded, table: pa.Table, rows: list[int]) -> None:
        bad = np.flatnonzero(~np.isfinite(encoded.embedding).all(axis=1))
        if len(bad):
            tile_id = table["tile_id"][rows[int(bad[0])]].as_py()
            raise CorruptArtifact(
                f"The model {self._model!r} gives NaN for tile {tile_id!r}; its weights are broken: train it again."
            )

    def _table(self, rows: pa.Table, code: npt.NDArray[np.uint8], embedding: npt.NDArray[Any]) -> pa.Table:
        """Rows of the codes table: code uint8[N, bits // 8], embedding [N, D] rounded to float16."""
        schema = schemas.codes_schema(code.shape[1], embedding.shape[1] if self._embeddings else None)
        columns = {name: rows[name] for name in ("tile_id", "lat", "lon", "cell")}
        packed = pa.py_buffer(np.ascontiguousarray(code).tobytes())
        columns["code"] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(code.shape[1]), len(code), [None, packed]
        )
        if self._embeddings:
            values = pa.array(embedding.astype(np.float16).ravel(), pa.float16())
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, embedding.shape[1])
        columns["model_id"] = pa.array([self._encoder.model_id] * len(code), pa.string())
        return schemas.conform(pa.table(columns), schema)
