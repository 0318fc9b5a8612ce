"""A table on storage: numbered Parquet parts and a manifest that is written last.

    <table>/plan.json                      fingerprint of what makes the table; written first
    <table>/part-00000.parquet ...         each written atomically, its content a function of the plan
    <table>/quarantine/part-00000.parquet  rows that were refused, each with its reason
    <table>/table.json                     the manifest: rows, parts with bytes and sha256, counts; written last

A table without `table.json` is unfinished and readers refuse it. A stage that was killed is run again: parts
that are there are kept, the others are made, and the result is the same as of one run through.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.core.fingerprint import PLAN_NAME, begin_output

FORMAT_VERSION = 1
MANIFEST_NAME = "table.json"
QUARANTINE = "quarantine"


class Part(BaseModel):
    """One Parquet file of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class TableManifest(BaseModel):
    """What a finished table holds; `details` is what its maker wants to remember (configuration, counts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    kind: str
    fingerprint: str
    rows: int
    parts: list[Part]
    quarantined: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of the parts in order: the table's content."""
        return [part.sha256 for part in self.parts]


def part_name(index: int) -> str:
    """File name of the part with this number."""
    return f"part-{index:05d}.parquet"


def begin(uri: str, fingerprint: str, *, overwrite: bool = False) -> TableManifest | None:
    """Open a table for writing: its manifest when it is finished, None when parts are missing (`begin_output`)."""
    record = begin_output(uri, fingerprint, record=MANIFEST_NAME, what="a table", overwrite=overwrite)
    return None if record is None else read_manifest(uri)


def encode_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=4096, store_schema=True)
    return sink.getvalue()


def write_part(uri: str, index: int, table: pa.Table, quarantined: pa.Table | None = None) -> Part:
    """Write one part atomically; its refused rows are written first, so a part that is there is complete."""
    if quarantined is not None and quarantined.num_rows:
        storage.write_bytes(storage.join(uri, QUARANTINE, part_name(index)), encode_parquet(quarantined))
    data = encode_parquet(table)
    storage.write_bytes(storage.join(uri, part_name(index)), data)
    return Part(
        name=part_name(index), rows=table.num_rows, bytes=len(data), sha256=storage.sha256_bytes(data)
    )


def written_part(uri: str, index: int) -> tuple[Part, dict[bytes, bytes]]:
    """A part that this or an earlier run wrote, and its schema's metadata; `CorruptArtifact` when it is broken."""
    data = storage.read_bytes(storage.join(uri, part_name(index)))
    try:
        footer = pq.read_metadata(io.BytesIO(data))
    except pa.ArrowException as error:
        raise CorruptArtifact(
            f"{uri!r} holds a broken {part_name(index)}; delete that file and run the stage again."
        ) from error
    part = Part(
        name=part_name(index),
        rows=footer.num_rows,
        bytes=len(data),
        sha256=storage.sha256_bytes(data),
    )
    return part, dict(footer.metadata or {})


def missing_parts(uri: str, count: int) -> list[int]:
    """Numbers below `count` whose part is not there yet (one listing, no file is opened)."""
    there = {file.name for file in storage.list_files(uri, suffix=".parquet", recursive=False)}
    return [index for index in range(count) if part_name(index) not in there]


def publish(
    uri: str,
    *,
    kind: str,
    fingerprint: str,
    parts: Sequence[Part],
    quarantined: Mapping[str, int] | None = None,
    details: Mapping[str, Any] | None = None,
) -> TableManifest:
    """Write the manifest: from here on the table is there, whole."""
    manifest = TableManifest(
        kind=kind,
        fingerprint=fingerprint,
        rows=sum(part.rows for part in parts),
        parts=sorted(parts, key=lambda part: part.name),
        quarantined=dict(sorted((quarantined or {}).items())),
        details=dict(details or {}),
    )
    storage.write_bytes(storage.join(uri, MANIFEST_NAME), manifest.model_dump_json(indent=1).encode())
    return manifest


def read_manifest(uri: str, *, kind: str | None = None) -> TableManifest:
    """The manifest of a finished table; `ArtifactError` when it is missing, unfinished or of another kind."""
    manifest_uri = storage.join(uri, MANIFEST_NAME)
    if not storage.exists(manifest_uri):
        if storage.exists(storage.join(uri, PLAN_NAME)):
            raise ArtifactError(f"The table {uri!r} is unfinished; run the stage that makes it again.")
        raise ArtifactError(f"There is no table at {uri!r}; check the path or run the stage that makes it.")
    try:
        manifest = TableManifest.model_validate_json(storage.read_bytes(manifest_uri))
    except ValidationError as error:
        raise CorruptArtifact(
            f"{manifest_uri!r} is not a table manifest of format {FORMAT_VERSION}; run the stage again."
        ) from error
    if manifest.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{uri!r} has table format {manifest.format_version}, this geoloc reads up to {FORMAT_VERSION}; upgrade."
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{uri!r} is a table of {manifest.kind}, not of {kind}; give the {kind} table.")
    return manifest


def read_part(uri: str, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, its bytes checked against the manifest before they are parsed; `CorruptArtifact` if they differ."""
    part_uri = storage.join(uri, part.name)
    data = storage.read_bytes(part_uri)
    if len(data) != part.bytes or storage.sha256_bytes(data) != part.sha256:
        raise CorruptArtifact(
            f"{part_uri!r} has {len(data)} bytes that do not match its manifest ({part.bytes} bytes, sha256 "
            f"{part.sha256[:12]}...); delete the table and run its stage again."
        )
    return pq.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))


def iterate(uri: str, *, kind: str | None = None, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The parts of a finished table in order, one in memory at a time."""
    for part in (manifest := read_manifest(uri, kind=kind)).parts:
        if part.rows or len(manifest.parts) == 1:
            yield read_part(uri, part, columns)


def read(uri: str, *, kind: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole finished table in memory (name the columns: images are large)."""
    return pa.concat_tables(list(iterate(uri, kind=kind, columns=columns)))
