"""The stage `city codes`: codes with the statistics of real ones, tens of millions of them, for tests of indexes.

No picture is rendered. Code i is the same whatever the count, the parts or the workers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, schemas, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.geodesy import cells
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.synthetic.world.codes import BLOCK, CodeModel, block_places, code_block, fit_codes
from geoloc.synthetic.world.georeference import to_latlon

_VERSION = 1
_BLOCKS_PER_PART = 32
_MOST_CODES = 4_000_000_000


class CityCodesConfig(BaseModel):
    """Number and seed of the codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(10_000_000, ge=1, le=_MOST_CODES, description="Number of codes.")
    seed: int = Field(7, ge=0, lt=2**31, description="Random seed of the codes.")


class CityCodesInputs(BaseModel):
    """The table whose statistics the codes follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    like: str = Field(description="URI of a codes table of real tiles, from `geoloc encode`.")


class CityCodesResult(BaseModel):
    """URI of the table and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    rows: int
    bits: int
    parts: int
    bytes: int
    seconds: float


def run(
    config: CityCodesConfig, inputs: CityCodesInputs, output: str, *, overwrite: bool = False
) -> CityCodesResult:
    """Write a table of codes like those of real tiles; existing parts are kept."""
    start, output = time.monotonic(), storage.absolute(output)
    like = storage.absolute(inputs.like)
    source = part_table.read_manifest(like, kind="codes")
    fingerprint = fingerprint_of(["city codes", _VERSION, source.checksums, config.model_dump()])
    with part_table.begin(output, fingerprint, overwrite=overwrite) as table:
        manifest, reused = table.finished, table.finished is not None
        if manifest is None:
            maker, rows = _fit_maker(like), BLOCK * _BLOCKS_PER_PART
            units = table_job.Units(
                range(0, config.count, rows),
                lambda first: {
                    "first": first,
                    "last": min(first + rows, config.count),
                    "seed": config.seed,
                },
            )
            written, _ = table_job.make_parts(table, units, maker, what="city codes")
            details = {**source.details, "generated": config.model_dump(), "code_bits": maker.model.bits}
            manifest = table.publish(kind="codes", parts=written, details=details)
    return CityCodesResult(
        output=output, reused=reused, rows=manifest.rows, bits=int(manifest.details["code_bits"]),
        parts=len(manifest.parts), bytes=sum(part.bytes for part in manifest.parts), seconds=time.monotonic() - start,
    )  # fmt: skip


def _fit_maker(like: str) -> CodesMaker:
    """A maker of codes with the statistics of a table's codes."""
    table = part_table.read(like, kind="codes", columns=["code", "model_id"])
    codes = np.frombuffer(b"".join(table["code"].to_pylist()), np.uint8).reshape(table.num_rows, -1)
    return CodesMaker(fit_codes(codes), str(table["model_id"][0].as_py()))


@dataclass(frozen=True)
class CodesMaker:
    """Makes the codes of one part (runs in a Ray Data task)."""

    model: CodeModel
    model_id: str

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """Codes first .. last."""
        first, last = unit["first"], unit["last"]
        wanted = range(first // BLOCK, -(-last // BLOCK))
        made = [code_block(self.model, unit["seed"], block) for block in wanted]
        codes = np.ascontiguousarray(np.concatenate(made)[: last - first])
        x, y = (np.concatenate(axis)[: last - first] for axis in zip(*map(block_places, wanted), strict=True))
        lat, lon = to_latlon(x, y)
        size = codes.shape[1]
        rows = pa.table({
            "tile_id": [f"c{index:012x}" for index in range(first, last)],
            "lat": lat, "lon": lon, "cell": cells(lat, lon),
            "code": pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(codes), [None, pa.py_buffer(codes)]),
            "model_id": pa.repeat(self.model_id, len(codes)),
        })  # fmt: skip
        return PartResult(schemas.conform(rows, schemas.codes_schema(size, None)))
