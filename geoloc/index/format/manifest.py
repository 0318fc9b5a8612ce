"""The manifest of a snapshot: what it holds, file by file, and the name that follows from its content.

    <index>/CURRENT                          the id of the snapshot that readers open
    <index>/snapshots/<id>/manifest.json     the id is the start of this file's SHA-256
    <index>/snapshots/build-<plan>/shard-00000/{codes.npy, tiles.arrow, space.arrow, embeddings.npy}
    <index>/snapshots/marks-<content>/live.npy   which rows of a shard are left after removals
    <index>/model/<model_id>/...             a copy of the model of the codes

A shard lies where its build wrote it and never moves (object stores cannot rename); manifests name it, so
several snapshots may share it. Removing tiles leaves the shard as it is: the next manifest names marks beside
it. From CURRENT to the last byte everything is checked by a hash: CURRENT names the manifest by its hash, the
manifest every file by its own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact

FORMAT_VERSION = 4
_OLDEST_VERSION = 2
SHARD_FILES_VERSION = 2  # of the files of a shard, which formats 3 and 4 of the manifest left as they were
MANIFEST_NAME = "manifest.json"
CURRENT_NAME = "CURRENT"
SNAPSHOTS = "snapshots"
MODELS = "model"
CODES_NAME = "codes.npy"
TILES_NAME = "tiles.arrow"
SPACE_NAME = "space.arrow"
EMBEDDINGS_NAME = "embeddings.npy"
LIVE_NAME = "live.npy"
ANY_HEADING_NAME = "any-heading.npy"
LIST_CENTRES_NAME = "ivf-centres.npy"
LIST_STARTS_NAME = "ivf-starts.npy"
LIST_ROWS_NAME = "ivf-rows.npy"

_ID_DIGITS = 32
_NPY_HEADER_BYTES = 128
_ID_PATTERN = re.compile(f"[0-9a-f]{{{_ID_DIGITS}}}")
_UNSAFE_PART = re.compile(r"\.{0,2}|.*[\\\x00-\x1f].*", re.DOTALL)


def _inside(path: str) -> str:
    # A manifest comes from elsewhere: its paths must not lead out of the index.
    if any(_UNSAFE_PART.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileEntry(_Frozen):
    """One file: its name within the directory of its owner, size and checksum."""

    name: RelativePath
    bytes: int = Field(ge=0)
    sha256: Sha256


class Bounds(_Frozen):
    """Box around tile centres in WGS84 degrees. Convention: south <= north, west <= east."""

    south: float = Field(ge=-90, le=90)
    west: float = Field(ge=-180, le=180)
    north: float = Field(ge=-90, le=90)
    east: float = Field(ge=-180, le=180)

    def union(self, other: Bounds) -> Bounds:
        """The smallest box around both."""
        return Bounds(
            south=min(self.south, other.south),
            west=min(self.west, other.west),
            north=max(self.north, other.north),
            east=max(self.east, other.east),
        )


class Marks(_Frozen):
    """Which rows of a shard are left: `file` (bool[count], `live` of them true) in `directory`."""

    directory: RelativePath
    file: FileEntry
    live: int = Field(ge=0)


class ShardEntry(_Frozen):
    """One shard: `directory` is relative to the index; rows are in the order of their tile ids.

    `count` rows are stored; with `marks` only those that these leave belong to the snapshot. Cells and bounds
    are those of all stored rows. `lists` counts the inverted lists, `any_heading_bits` is the width of the rotation
    invariant codes; both are 0 for a shard without. `files` may hold more than the format's own.
    """

    directory: RelativePath
    count: int = Field(ge=0)
    first_cell: int | None
    last_cell: int | None
    bounds: Bounds | None
    lists: int = Field(ge=0)
    any_heading_bits: int = Field(ge=0, multiple_of=8)
    files: list[FileEntry]
    marks: Marks | None = None

    @model_validator(mode="after")
    def _marks_fit(self) -> Self:
        if self.marks is not None and self.marks.live > self.count:
            raise ValueError(f"{self.marks.live} of {self.count} rows cannot be left")
        return self

    @property
    def live(self) -> int:
        """Rows that belong to the snapshot."""
        return self.count if self.marks is None else self.marks.live

    def file(self, name: str) -> FileEntry | None:
        """The file of this name, None when the shard has none."""
        return next((file for file in self.files if file.name == name), None)


class HashEncoderEntry(_Frozen):
    """The hash encoder that made the codes: its kind, its longest code, and the hash of what decides the bits."""

    name: str
    bits: int = Field(ge=8, multiple_of=8)
    nested: bool
    fingerprint: Sha256


class ModelEntry(_Frozen):
    """The model that made the codes, and its files; `directory` is relative to the index.

    `hash_encoder` is None in manifests of before format 4: the head that was trained with the model.
    """

    directory: RelativePath
    model_id: str
    weights_sha256: Sha256
    recipe_name: str
    bits: int
    embedding_dim: int
    files: list[FileEntry]
    hash_encoder: HashEncoderEntry | None = None


Operation = Literal["build", "add", "remove", "compact"]


class Change(_Frozen):
    """The difference of a snapshot from its parent, in tiles; a build counts all of its tiles as added."""

    operation: Operation = "build"
    added: int = Field(default=0, ge=0)
    replaced: int = Field(default=0, ge=0)
    removed: int = Field(default=0, ge=0)


class Manifest(_Frozen):
    """Everything about a snapshot. `fingerprint` identifies its inputs and settings, `parent` the snapshot before it.

    `count` is the number of tiles, those that marks removed left out. `embedding_dim` is None for an index
    without re-rank embeddings; `located` says whether tiles have coordinates (all or none do).
    """

    format_version: int = FORMAT_VERSION
    fingerprint: str
    parent: str | None
    change: Change = Change()
    complete: bool
    bits: int = Field(ge=8, multiple_of=8)
    embedding_dim: int | None = Field(default=None, ge=1)
    count: int = Field(ge=0)
    located: bool
    bounds: Bounds | None
    model: ModelEntry
    shards: list[ShardEntry]

    @property
    def lists(self) -> int:
        """Inverted lists of a shard: the most that one has, 0 without any."""
        return max((shard.lists for shard in self.shards), default=0)

    @property
    def any_heading_bits(self) -> int:
        """Bits of the rotation invariant codes; 0 unless all shards with rows have codes of the same width."""
        widths = {shard.any_heading_bits for shard in self.shards if shard.count}
        return widths.pop() if len(widths) == 1 else 0

    @property
    def total_bytes(self) -> int:
        """Size of all files that the manifest names."""
        return sum(file.bytes for _, files in self.owners() for file in files)

    def owners(self) -> list[tuple[str, list[FileEntry]]]:
        """(directory relative to the index, its files) of the model, of each shard and of each shard's marks."""
        shards = [(shard.directory, shard.files) for shard in self.shards]
        marks = [(shard.marks.directory, [shard.marks.file]) for shard in self.shards if shard.marks]
        return [(self.model.directory, self.model.files), *shards, *marks]


def bounds_around(shards: Sequence[ShardEntry]) -> Bounds | None:
    """The box around all shards; None when none has coordinates."""
    boxes = [shard.bounds for shard in shards if shard.bounds is not None]
    return functools.reduce(Bounds.union, boxes) if boxes else None


def encode(manifest: Manifest) -> tuple[str, bytes]:
    """(snapshot id, bytes of manifest.json): equal manifests give equal ids."""
    data = (manifest.model_dump_json(indent=1) + "\n").encode()
    return storage.sha256_bytes(data)[:_ID_DIGITS], data


def is_snapshot_id(text: str) -> bool:
    """Whether the text looks like the id of a snapshot."""
    return _ID_PATTERN.fullmatch(text) is not None


def manifest_uri(index_uri: str, snapshot_id: str) -> str:
    """Where the manifest of a snapshot lies."""
    return storage.join(index_uri, SNAPSHOTS, snapshot_id, MANIFEST_NAME)


def read_manifest(index_uri: str, snapshot_id: str) -> Manifest:
    """The manifest of a snapshot, its bytes checked against the id before they are parsed.

    Raises `ArtifactError` (no such snapshot, unfinished, or made by a newer geoloc) and `CorruptArtifact`.
    """
    uri = manifest_uri(index_uri, snapshot_id)
    if not is_snapshot_id(snapshot_id) or not storage.exists(uri):
        raise ArtifactError(
            f"There is no snapshot {snapshot_id!r} in {index_uri!r}; `geoloc index inspect` lists what is there."
        )
    data = storage.read_bytes(uri)
    if storage.sha256_bytes(data)[:_ID_DIGITS] != snapshot_id:
        raise CorruptArtifact(
            f"{uri!r} does not match its snapshot's id; restore the file or build the index again."
        )
    manifest = _parse(uri, data)
    if not manifest.complete:
        raise ArtifactError(f"The snapshot {uri!r} is marked as incomplete; build the index again.")
    return manifest


def _parse(uri: str, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
        version = int(content["format_version"])
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"{uri!r} has index format {version}, this geoloc reads up to {FORMAT_VERSION}; upgrade geoloc."
            )
        if version < _OLDEST_VERSION:
            raise ArtifactError(
                f"{uri!r} has index format {version}, this geoloc reads {_OLDEST_VERSION} to {FORMAT_VERSION}; build "
                "the index again from its codes, or read it with the geoloc that made it."
            )
        if version == 2:
            _add_widths(content)
        return Manifest.model_validate(content)
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CorruptArtifact(
            f"{uri!r} is not an index manifest of format {FORMAT_VERSION} ({detail}); build the index again."
        ) from error


def _add_widths(content: dict[str, Any]) -> None:
    """Give a manifest of format 2 the widths that format 3 states; the sizes of the files imply them."""
    for shard in content["shards"]:
        array_bytes = {file["name"]: file["bytes"] - _NPY_HEADER_BYTES for file in shard["files"]}
        shard["lists"] = array_bytes.get(LIST_CENTRES_NAME, 0) // (content["bits"] // 8)
        shard["any_heading_bits"] = array_bytes.get(ANY_HEADING_NAME, 0) // max(1, shard["count"]) * 8
