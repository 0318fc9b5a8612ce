"""Tar shards as the webdataset package reads and writes them, in geoloc's own interchange layout.

    <root>/<split>/*.tar   (or <root>/*.tar without a split)
    {key}.ground.jpg   the photo      {key}.aerial.jpg   the tile      {key}.json   what is known of both

The JSON has `query` and `tile` (the columns of the tables, without pictures) and `pairs` (rows of the pairs
table). A sample may hold a photo alone or a tile alone; a tile that comes again under its tile_id is taken once.
Pictures are read from inside the tar files, by position: nothing is unpacked.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from geoloc.core import schemas, storage
from geoloc.core.errors import InputError
from geoloc.core.remote_file import RemoteFile
from geoloc.core.schemas import NOTE_NAME
from geoloc.sources.datasets import files
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Pair, Picture, Plan, Query, Request, Tile

TILE_COLUMNS = ("tile_id", "lat", "lon", "place_id", "metres_per_pixel", "source")
QUERY_COLUMNS = tuple(name for name in schemas.QUERIES.names if name != "image")
LAYOUT = (
    "<root>/<split>/*.tar (or <root>/*.tar) with samples {key}.ground.jpg, {key}.aerial.jpg and {key}.json, the JSON "
    "having query, tile and pairs"
)
_MAX_JSON_BYTES = 16 * 2**20
_NEEDED = {"query": ("query_id", "view", "fov_deg"), "tile": ("tile_id", "metres_per_pixel")}
_PICTURE = re.compile(r"(ground|aerial)\.(?:jpe?g|png|webp)", re.IGNORECASE)


@dataclass
class Sample:
    """One sample of a shard: its JSON and where its pictures lie."""

    shard: str
    key: str
    pictures: dict[str, Picture] = field(default_factory=dict)
    content: dict[str, Any] | None = None


def read_shard(uri: str) -> list[Sample]:
    """The samples of a shard in order; headers and JSON are read, pictures are stepped over.

    Raises `InputError` for a file that is no whole, uncompressed tar or holds broken JSON.
    """
    samples: dict[str, Sample] = {}
    with RemoteFile(uri) as stream:
        size = stream.size_bytes
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.issparse():
                        raise tarfile.ReadError(
                            f"{member.name!r} is a sparse file, which can grow without end"
                        )
                    if member.isfile():
                        _add_member(samples, uri, tar, member)
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(
                f"{uri!r} is no whole, uncompressed tar file ({error}); copy or unpack it again.",
                reason="bad_shard",
            ) from error
    return list(samples.values())


def _add_member(samples: dict[str, Sample], uri: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    # A key is the name up to the first dot behind its folders, as webdataset has it.
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    if not stem or not ending:
        return
    key = f"{folder}/{stem}" if folder else stem
    sample = samples.setdefault(key, Sample(uri, key))
    if match := _PICTURE.fullmatch(ending):
        sample.pictures[match[1].lower()] = Picture(uri, member.size, member.offset_data)
    elif ending == "json":
        if member.size > _MAX_JSON_BYTES:
            raise _broken(sample, f"its JSON has {member.size:,} bytes, more than {_MAX_JSON_BYTES:,}")
        stream = tar.extractfile(member)
        assert stream is not None
        try:
            sample.content = json.loads(stream.read())
        except ValueError as error:
            raise _broken(sample, f"its JSON cannot be read ({error})") from error


def _broken(sample: Sample, what: str) -> InputError:
    return InputError(
        f"{sample.shard!r}, sample {sample.key!r}: {what}. Expected layout: {LAYOUT}.",
        reason="bad_annotation",
    )


def shards(request: Request) -> list[str]:
    """URIs of a split's shards, sorted; `ArtifactError` when there is none."""
    folder = files.below(request.root, request.split)
    found = [file.uri for file in storage.list_files(folder, suffix=".tar", recursive=False)]
    if not found:
        raise files.missing("every .tar shard", [folder], LAYOUT)
    return found


def plan(request: Request) -> Plan:
    """Rows of a split's shards; `ArtifactError` or `InputError` when they are not as they should be."""
    uris = shards(request)
    result = Plan("webdataset", request.split, None)
    note_uri = files.below(request.root, request.split, NOTE_NAME)
    if storage.exists(note_uri):
        _take_note(result, note_uri)
    tiles: dict[str, Tile] = {}
    with ThreadPoolExecutor(max_workers=1 if storage.is_local(request.root) else 8) as pool:
        for samples in pool.map(read_shard, uris):
            for sample in samples:
                _add_sample(result, tiles, sample)
    result.tiles = list(tiles.values())
    result.counts = {"tiles": len(result.tiles), "queries": len(result.queries), "shards": len(uris)}
    result.compare_counts()
    return result


def _take_note(result: Plan, uri: str) -> None:
    """What the exporter wrote down of the data set that the shards came from."""
    try:
        note = json.loads(storage.read_text(uri))
        result.name, result.protocol = str(note["name"]), note["protocol"]
        result.split = str(note["split"])
        result.published = {str(what): int(count) for what, count in note["published_counts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{uri!r} is not the note of an export ({type(error).__name__}: {error}); export again or delete it.",
            reason="bad_annotation",
        ) from error
    result.annotations.append(uri)


def _add_sample(result: Plan, tiles: dict[str, Tile], sample: Sample) -> None:
    content = sample.content
    if content is None or not isinstance(content, dict):
        raise _broken(sample, "it has no .json" if content is None else "its JSON is not an object")
    for kind, picture in (("tile", "aerial"), ("query", "ground")):
        if (kind in content) != (picture in sample.pictures):
            has, lacks = (kind, f"{picture} picture") if kind in content else (f"{picture} picture", kind)
            raise _broken(sample, f"it has the {has} and no {lacks}")
    if "tile" in content:
        values = _values(sample, "tile", content["tile"], TILE_COLUMNS)
        values = {"source": "webdataset"} | {
            name: value for name, value in values.items() if value is not None
        }
        tile = _row(sample, Tile, {"picture": sample.pictures["aerial"], **values})
        tiles.setdefault(tile.tile_id, tile)
    if "query" in content:
        values = _values(sample, "query", content["query"], QUERY_COLUMNS)
        query = _row(sample, Query, {"picture": sample.pictures["ground"], **values})
        if query.view not in schemas.VIEWS:
            raise _broken(sample, f"view is {query.view!r}, not one of {', '.join(schemas.VIEWS)}")
        result.queries.append(query)
    result.pairs += _pairs(sample, content.get("pairs", []))


def _values(sample: Sample, kind: str, values: Any, columns: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise _broken(sample, f"{kind} is not an object")
    for name in _NEEDED[kind]:
        if values.get(name) is None:
            raise _broken(sample, f"{kind} has no {name}")
    for name in ("lat", "lon", "heading_deg", "fov_deg", "metres_per_pixel"):
        if values.get(name) is not None and not isinstance(values[name], int | float):
            raise _broken(sample, f"{kind}.{name} is {values[name]!r}, not a number")
    return {name: values[name] for name in columns if name in values}


def _row(sample: Sample, kind: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise _broken(sample, str(error)) from error


def _pairs(sample: Sample, rows: Any) -> Iterator[Pair]:
    for row in rows:
        try:
            pair = Pair(**row)
        except TypeError as error:
            raise _broken(sample, f"pairs holds {row!r}") from error
        if pair.relation not in schemas.RELATIONS:
            raise _broken(sample, f"relation is {pair.relation!r}, not one of {', '.join(schemas.RELATIONS)}")
        yield pair


DATASET = register(DataSet("webdataset", (), LAYOUT, plan, any_split=True))
