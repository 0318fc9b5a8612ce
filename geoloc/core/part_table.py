"""A table on storage: numbered Parquet parts and a manifest that is written last.

    <table>/plan.json                            fingerprint and generation of what makes the table; written first
    <table>/lease.json                           who is at work, while somebody is (`lease`)
    <table>/part-00000.<plan>.parquet ...        each written once, its content a function of the plan
    <table>/receipts/                            parts that are finished, while the table is not
    <table>/quarantine/part-00000.<plan>.parquet rows that were refused, each with its reason
    <table>/table.json                           the manifest: rows, parts with bytes and sha256, counts; written last

`<plan>` is the start of the fingerprint and the generation, which grows by one with every `overwrite`. So parts of
two plans have different names, and reading compares the names with the manifest. A table without `table.json` is
unfinished and readers refuse it. A stage that was killed is run again: parts that are there are kept, the others
are made, and the result is the same as of one run through. With `overwrite` the old table is there until the new
one takes its place.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact, OutputInUse
from geoloc.core.fingerprint import PLAN_NAME, holds_other_files, other_work, read_plan
from geoloc.core.lease import Lease

FORMAT_VERSION = 2
MANIFEST_NAME = "table.json"
QUARANTINE = "quarantine"
RECEIPTS = "receipts"
_PART = re.compile(r"part-(\d{5,})(?:\.\w{1,12}-(\d+))?\.parquet")
_THREADS = 8  # on object stores the time goes into waiting


class Part(BaseModel):
    """One Parquet file of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class Receipt(BaseModel):
    """A part that is finished, and the counts of its maker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Part
    counts: dict[str, int] = Field(default_factory=dict)


class TableManifest(BaseModel):
    """What a finished table holds; `details` is what its maker wants to remember (configuration, counts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    kind: str
    fingerprint: str
    generation: int = 0
    rows: int
    parts: list[Part]
    quarantined: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of the parts in order: the table's content."""
        return [part.sha256 for part in self.parts]


@dataclass(frozen=True)
class TablePlan:
    """Where a table is made and which plan its parts belong to; small, so that tasks carry it.

    The first plan of a table has generation 1.
    """

    uri: str
    fingerprint: str
    generation: int = 1

    def encode(self) -> bytes:
        """The bytes of `plan.json`."""
        content = {"fingerprint": self.fingerprint, "generation": self.generation}
        return json.dumps(content).encode() + b"\n"

    def part_name(self, index: int) -> str:
        """File name of the part with this number."""
        return f"part-{index:05d}.{self.tag}.parquet"

    @property
    def tag(self) -> str:
        """What names of this plan's files carry."""
        return f"{re.sub('[^0-9A-Za-z]', '_', self.fingerprint[:12])}-{self.generation}"

    def write_part(self, index: int, table: pa.Table, quarantined: pa.Table | None = None) -> Part:
        """Write one part atomically, after its refused rows, so that a part that is there is complete.

        A part that is there already stays, and is the one that is returned.
        """
        name = self.part_name(index)
        if quarantined is not None and quarantined.num_rows:
            storage.write_bytes(storage.join(self.uri, QUARANTINE, name), encode_parquet(quarantined))
        data = encode_parquet(table)
        if not _create(storage.join(self.uri, name), data):
            return self.written_part(index)[0]
        return Part(name=name, rows=table.num_rows, bytes=len(data), sha256=storage.sha256_bytes(data))

    def written_part(self, index: int) -> tuple[Part, dict[bytes, bytes]]:
        """A part that is there, and its schema's metadata; `CorruptArtifact` when it is broken."""
        name = self.part_name(index)
        data = storage.read_bytes(storage.join(self.uri, name))
        try:
            footer = pq.read_metadata(pa.BufferReader(data))
        except pa.ArrowException as error:
            raise CorruptArtifact(
                f"{self.uri!r} holds a broken {name}; delete that file and run the stage again."
            ) from error
        part = Part(name=name, rows=footer.num_rows, bytes=len(data), sha256=storage.sha256_bytes(data))
        return part, dict(footer.metadata or {})

    def has_part(self, index: int) -> bool:
        """Whether the part with this number is there."""
        return storage.exists(storage.join(self.uri, self.part_name(index)))


@dataclass
class TableDraft:
    """A table that is open for writing (`begin`); `finished` is its manifest when there is nothing to do."""

    plan: TablePlan
    finished: TableManifest | None = None
    _lease: Lease | None = None
    _token: str = field(default_factory=lambda: secrets.token_hex(4))
    _receipts: int = 0

    def write_part(self, index: int, table: pa.Table, quarantined: pa.Table | None = None) -> Part:
        """Write one part (`TablePlan.write_part`)."""
        return self.plan.write_part(index, table, quarantined)

    def finished_parts(self) -> dict[int, Receipt]:
        """Finished parts by number: those whose receipt agrees in size with the file. No part is read."""
        uris = [
            file.uri
            for file in storage.list_files(storage.join(self.plan.uri, RECEIPTS), recursive=False)
            if file.name.startswith(f"{self.plan.tag}.")
        ]
        if not uris:
            return {}
        sizes = {file.name: file.size_bytes for file in storage.list_files(self.plan.uri, recursive=False)}
        found = {}
        with ThreadPoolExecutor(_THREADS) as pool:
            for content in pool.map(storage.read_bytes, uris):
                for line in content.splitlines():
                    receipt = Receipt.model_validate_json(line)
                    if sizes.get(receipt.part.name) == receipt.part.bytes:
                        found[part_number(receipt.part.name)] = receipt
        return found

    def write_receipts(self, receipts: Sequence[Receipt]) -> None:
        """Note parts as finished, in one small file, so that a later run need not read them."""
        name = f"{self.plan.tag}.{self._token}-{self._receipts:05d}.jsonl"
        self._receipts += 1
        lines = "".join(f"{receipt.model_dump_json()}\n" for receipt in receipts)
        storage.write_bytes(storage.join(self.plan.uri, RECEIPTS, name), lines.encode())

    def publish(
        self,
        *,
        kind: str,
        parts: Sequence[Part],
        quarantined: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> TableManifest:
        """Write the manifest by compare and swap: from here on the table is there, whole. Older parts are removed.

        Raises `OutputInUse` when another run has taken the table over.
        """
        manifest = TableManifest(
            format_version=FORMAT_VERSION,
            kind=kind,
            fingerprint=self.plan.fingerprint,
            generation=self.plan.generation,
            rows=sum(part.rows for part in parts),
            parts=sorted(parts, key=lambda part: part_number(part.name)),
            quarantined=dict(sorted((quarantined or {}).items())),
            details=dict(details or {}),
        )
        uri, data = self.plan.uri, manifest.model_dump_json(indent=1).encode()
        while True:
            there = _read(storage.join(uri, MANIFEST_NAME))
            if there is not None and (other := _same_plan(uri, self.plan)) is not None:
                return other
            if self._lease is not None:
                self._lease.check()
            # After the manifest was read: who changes the plan in between also changes the manifest later.
            if _read(storage.join(uri, PLAN_NAME)) != self.plan.encode():
                raise OutputInUse(
                    f"Another run took {uri!r} over with --overwrite while this one was at work; nothing of this one "
                    "was published."
                )
            if _swap(storage.join(uri, MANIFEST_NAME), data, there):
                break
        self.finished = manifest
        _remove_older(self.plan)
        return manifest


def part_number(name: str) -> int:
    """The number in a part's file name; `CorruptArtifact` when it is no such name."""
    if (match := _PART.fullmatch(name)) is None:
        raise CorruptArtifact(
            f"{name!r} is not the name of a part; delete the table and run its stage again."
        )
    return int(match[1])


@contextmanager
def begin(uri: str, fingerprint: str, *, overwrite: bool = False) -> Iterator[TableDraft]:
    """Open a table for writing, within a `with` block that holds the lease on it.

    A table that is finished and has this fingerprint is given back at once (`TableDraft.finished`). Raises
    `ArtifactError` for a table of another fingerprint, and for other files that lie there, unless `overwrite`;
    and `OutputInUse` when another run is at work there.
    """
    done = _finished(uri, fingerprint)
    if done is not None:
        yield TableDraft(TablePlan(uri, fingerprint, done.generation), done)
        return
    with Lease(uri) as lease:
        plan = _claim(uri, fingerprint, overwrite=overwrite)
        yield TableDraft(plan, _finished(uri, fingerprint), lease)


def is_finished(uri: str, fingerprint: str) -> bool:
    """Whether the table is there, whole, and made by this plan; nothing is written."""
    return _finished(uri, fingerprint) is not None


def write_table(
    uri: str,
    tables: Sequence[pa.Table],
    *,
    kind: str,
    fingerprint: str,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> TableManifest:
    """Write a small table at once, a part for each of `tables`; a finished one of this fingerprint is kept."""
    with begin(uri, fingerprint, overwrite=overwrite) as draft:
        if draft.finished is not None:
            return draft.finished
        parts = [draft.write_part(index, table) for index, table in enumerate(tables)]
        return draft.publish(kind=kind, parts=parts, details=details)


def _claim(uri: str, fingerprint: str, *, overwrite: bool) -> TablePlan:
    """Write or take over `plan.json`; of several runs that try, one gets it and the others are refused."""
    plan_uri = storage.join(uri, PLAN_NAME)
    held = _read(plan_uri)
    mine, generation = read_plan(held)
    if held is not None and mine == fingerprint and generation > 0:
        return TablePlan(uri, fingerprint, generation)
    problem = ""
    if held is not None and mine != fingerprint:
        problem = other_work("a table")
    elif held is None:
        problem = holds_other_files(uri)
    if problem and not overwrite:
        raise ArtifactError(f"{uri!r} {problem}")
    plan = TablePlan(uri, fingerprint, max(generation, _published_generation(uri)) + 1)
    if not _swap(plan_uri, plan.encode(), held):
        raise OutputInUse(f"Another run has just begun to make {uri!r}; wait until it has ended.")
    return plan


def _published_generation(uri: str) -> int:
    try:
        return read_manifest(uri).generation
    except ArtifactError:
        return 0  # nothing is published that could be read


def _finished(uri: str, fingerprint: str) -> TableManifest | None:
    """The manifest, when the table is finished and both it and its plan have this fingerprint."""
    held = _read(storage.join(uri, PLAN_NAME))
    if held is None or read_plan(held)[0] != fingerprint:
        return None
    if not storage.exists(storage.join(uri, MANIFEST_NAME)):
        return None
    manifest = read_manifest(uri)
    return manifest if manifest.fingerprint == fingerprint else None


def _same_plan(uri: str, plan: TablePlan) -> TableManifest | None:
    """The manifest, when another run of the same plan has published it."""
    try:
        manifest = read_manifest(uri)
    except ArtifactError:
        return None  # what cannot be read is replaced
    same = (manifest.fingerprint, manifest.generation) == (plan.fingerprint, plan.generation)
    return manifest if same else None


def _remove_older(plan: TablePlan) -> None:
    """Delete the files of earlier plans, and all receipts of this one. Plans to come have higher generations."""
    old = []
    for file in [
        *storage.list_files(plan.uri, suffix=".parquet", recursive=False),
        *storage.list_files(storage.join(plan.uri, QUARANTINE), suffix=".parquet", recursive=False),
    ]:
        match = _PART.fullmatch(file.name)
        if match and int(match[2] or 0) < plan.generation:
            old.append(file.uri)
    for file in storage.list_files(storage.join(plan.uri, RECEIPTS), suffix=".jsonl", recursive=False):
        if int(file.name.partition(".")[0].rpartition("-")[2]) <= plan.generation:
            old.append(file.uri)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(storage.delete, old))


def encode_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file; equal tables give equal bytes.

    Buffers of Arrow are read and written here, never files of Python: Arrow's threads would then call Python, and one
    that does so while the process ends aborts it.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=4096, store_schema=True, write_page_checksum=True
    )
    return bytes(sink.getvalue().to_pybytes())


def read_manifest(uri: str, *, kind: str | None = None) -> TableManifest:
    """The manifest of a finished table; `ArtifactError` when it is missing, unfinished or of another kind."""
    manifest_uri = storage.join(uri, MANIFEST_NAME)
    content = _read(manifest_uri)
    if content is None:
        if storage.exists(storage.join(uri, PLAN_NAME)):
            raise ArtifactError(f"The table {uri!r} is unfinished; run the stage that makes it again.")
        raise ArtifactError(f"There is no table at {uri!r}; check the path or run the stage that makes it.")
    try:
        manifest = TableManifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifact(
            f"{manifest_uri!r} is not a table manifest of format {FORMAT_VERSION} or older; run the stage again."
        ) from error
    if manifest.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{uri!r} has table format {manifest.format_version}, this geoloc reads up to {FORMAT_VERSION}; upgrade."
        )
    if manifest.format_version > 1:
        _check_names(uri, manifest)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{uri!r} is a table of {manifest.kind}, not of {kind}; give the {kind} table.")
    return manifest


def _check_names(uri: str, manifest: TableManifest) -> None:
    """Refuse a manifest that names parts of another plan."""
    plan = TablePlan(uri, manifest.fingerprint, manifest.generation)
    for part in manifest.parts:
        if part.name != plan.part_name(part_number(part.name)):
            raise CorruptArtifact(
                f"{storage.join(uri, MANIFEST_NAME)!r} names {part.name}, which belongs to another run (this one's are "
                f"marked {plan.tag}); delete the table and run its stage again."
            )


def read_part(uri: str, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, its bytes checked against the manifest before they are parsed; `CorruptArtifact` if they differ."""
    part_uri = storage.join(uri, part.name)
    data = storage.read_bytes(part_uri)
    if len(data) != part.bytes or storage.sha256_bytes(data) != part.sha256:
        raise CorruptArtifact(
            f"{part_uri!r} has {len(data)} bytes that do not match its manifest ({part.bytes} bytes, sha256 "
            f"{part.sha256[:12]}...); delete the table and run its stage again."
        )
    return pq.read_table(pa.BufferReader(data), columns=None if columns is None else list(columns))


def read_columns(uri: str, part: Part, columns: Sequence[str]) -> pa.Table:
    """Some columns of one part, of which alone the bytes are read: no picture where none is named.

    The size is checked against the manifest, and each page against its checksum in the file (parts of format 1 have
    none); `CorruptArtifact` if they differ.
    """
    part_uri = storage.join(uri, part.name)
    fs, path = storage.filesystem(part_uri)

    def read_chunks() -> pa.Table:
        with fs.open_input_file(path) as stream:
            if stream.size() != part.bytes:
                raise _wrong_size(part_uri, stream.size(), part)
            try:
                return pq.read_table(stream, columns=list(columns), page_checksum_verification=True)
            except OSError as error:
                if "CRC" not in str(error):
                    raise
                raise CorruptArtifact(
                    f"{part_uri!r} has a page that does not match its checksum; delete the table and run its stage "
                    "again."
                ) from error

    return storage.attempt("read", part_uri, read_chunks)


def column_ranges(uri: str, part: Part, columns: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """The least and the largest number of columns of one part, from its footer; no row is read.

    None for a column whose range the file does not say. Nulls and NaN count for nothing.
    """
    part_uri = storage.join(uri, part.name)
    fs, path = storage.filesystem(part_uri)

    def read_footer() -> pq.FileMetaData:
        with fs.open_input_file(path) as stream:
            if stream.size() != part.bytes:
                raise _wrong_size(part_uri, stream.size(), part)
            return pq.read_metadata(stream)

    footer = storage.attempt("read", part_uri, read_footer)
    places = {footer.schema.column(index).path: index for index in range(footer.num_columns)}
    found: dict[str, tuple[float, float] | None] = {}
    for name in columns:
        groups = [footer.row_group(g).column(places[name]).statistics for g in range(footer.num_row_groups)]
        known = bool(groups) and all(group is not None and group.has_min_max for group in groups)
        found[name] = (min(g.min for g in groups), max(g.max for g in groups)) if known else None
    return found


def _wrong_size(part_uri: str, size: int, part: Part) -> CorruptArtifact:
    return CorruptArtifact(
        f"{part_uri!r} has {size} bytes, its manifest says {part.bytes}; delete the table and run its stage again."
    )


def iterate(uri: str, *, kind: str | None = None, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The parts of a finished table in order, one in memory at a time; of named columns by `read_columns`."""
    for part in (manifest := read_manifest(uri, kind=kind)).parts:
        if part.rows or len(manifest.parts) == 1:
            yield read_part(uri, part) if columns is None else read_columns(uri, part, columns)


def read(uri: str, *, kind: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole finished table in memory (name the columns: images are large)."""
    return pa.concat_tables(list(iterate(uri, kind=kind, columns=columns)))


def _read(uri: str) -> bytes | None:
    """The bytes of a small file; None when it is not there."""
    try:
        return storage.read_bytes(uri)
    except ArtifactError:
        return None


def _create(uri: str, data: bytes) -> bool:
    """Create a file where none is; a store without conditional puts looks first and gives no promise."""
    if storage.has_conditional_put(uri):
        return storage.put_if_absent(uri, data)
    if storage.exists(uri):
        return False
    storage.write_bytes(uri, data)
    return True


def _swap(uri: str, data: bytes, expected: bytes | None) -> bool:
    """Replace a small file that holds `expected` (None: is absent), as `_create` does."""
    if storage.has_conditional_put(uri):
        return storage.compare_and_swap(uri, data, expected)
    if _read(uri) != expected:
        return False
    storage.write_bytes(uri, data)
    return True
