from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.index.format import manifest as manifests
from geoloc.index.format.commit import read_head
from geoloc.index.format.manifest import (
    ANY_HEADING_NAME,
    FORMAT_VERSION,
    LIST_CENTRES_NAME,
    FileEntry,
    Manifest,
    encode,
    read_manifest,
)

from ..building import as_format_2, build, random_tiles


def rewritten(index_uri: str, snapshot_id: str, **changes: object) -> str:
    """The id of a copy of a manifest with some fields changed, under the name that fits its bytes."""
    content = json.loads(storage.read_bytes(manifests.manifest_uri(index_uri, snapshot_id)))
    data = json.dumps({**content, **changes}).encode()
    name = storage.sha256_bytes(data)[:32]
    storage.write_bytes(manifests.manifest_uri(index_uri, name), data)
    return name


def test_the_id_is_the_hash_of_the_content(index_uri: str) -> None:
    snapshot_id = build(index_uri, random_tiles(10))
    manifest = read_manifest(index_uri, snapshot_id)
    assert encode(manifest)[0] == snapshot_id
    assert encode(manifest.model_copy(update={"count": 11}))[0] != snapshot_id


def test_a_newer_format_is_refused_with_both_numbers(index_uri: str) -> None:
    name = rewritten(index_uri, build(index_uri, random_tiles(10)), format_version=7, news="unknown here")
    with pytest.raises(ArtifactError, match="index format 7, this geoloc reads up to 4") as caught:
        read_manifest(index_uri, name)
    assert not isinstance(caught.value, CorruptArtifact)


def test_an_older_format_is_refused_with_both_numbers(index_uri: str) -> None:
    name = rewritten(index_uri, build(index_uri, random_tiles(10)), format_version=1)
    with pytest.raises(
        ArtifactError, match="index format 1, this geoloc reads 2 to 4; build the index again"
    ):
        read_manifest(index_uri, name)


def test_an_incomplete_snapshot_is_refused(index_uri: str) -> None:
    name = rewritten(index_uri, build(index_uri, random_tiles(10)), complete=False)
    with pytest.raises(ArtifactError, match="marked as incomplete"):
        read_manifest(index_uri, name)


@pytest.mark.parametrize(
    "changes", [{"bits": 12}, {"unknown": 1}, {"format_version": "new"}, {"shards": None}]
)
def test_a_manifest_that_makes_no_sense_is_refused(index_uri: str, changes: dict[str, object]) -> None:
    name = rewritten(index_uri, build(index_uri, random_tiles(10)), **changes)
    with pytest.raises(CorruptArtifact, match="is not an index manifest of format 4"):
        read_manifest(index_uri, name)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a//b", ".", "a\\b", "a\n"])
def test_a_manifest_cannot_lead_out_of_its_index(name: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name=name, bytes=1, sha256="0" * 64)


def test_bytes_and_owners_cover_every_file(index_uri: str) -> None:
    manifest: Manifest = read_manifest(index_uri, build(index_uri, random_tiles(30), 3))
    listed = {
        file.uri: file.size_bytes
        for file in storage.list_files(index_uri)
        if file.name not in ("CURRENT", "manifest.json")
    }
    owned = {
        storage.join(index_uri, relative, file.name): file.bytes
        for relative, files in manifest.owners()
        for file in files
    }
    assert owned == listed
    assert manifest.total_bytes == sum(listed.values())


def test_names_with_spaces_and_dots_are_plain() -> None:
    for name in ("a b.txt", ".hidden", "...", "ä/β.bin"):
        assert FileEntry(name=name, bytes=1, sha256="0" * 64).name == name


def test_a_manifest_of_format_2_gets_its_widths_from_the_sizes_of_its_files(index_uri: str) -> None:
    build(index_uri, random_tiles(60, bits=64, dim=8), 3)
    now = read_manifest(index_uri, str(read_head(index_uri).snapshot_id))
    shards = []
    for shard, lists in zip(now.shards, (0, 1, 5), strict=True):
        extra = [FileEntry(name=ANY_HEADING_NAME, bytes=128 + 3 * shard.count, sha256="0" * 64)]
        if lists:
            extra.append(FileEntry(name=LIST_CENTRES_NAME, bytes=128 + 8 * lists, sha256="0" * 64))
        update = {"files": [*shard.files, *extra], "lists": lists, "any_heading_bits": 24}
        shards.append(shard.model_copy(update=update))
    wanted = now.model_copy(update={"shards": shards})
    snapshot_id, data = encode(wanted)
    storage.write_bytes(manifests.manifest_uri(index_uri, snapshot_id), data)
    storage.write_bytes(storage.join(index_uri, "CURRENT"), f"{snapshot_id}\n".encode())
    old = read_manifest(index_uri, as_format_2(index_uri))
    assert old.format_version == 2
    assert old.model_copy(update={"format_version": FORMAT_VERSION}) == wanted
    assert (old.lists, old.any_heading_bits) == (5, 24)


def test_a_manifest_must_state_its_widths(index_uri: str) -> None:
    snapshot_id = build(index_uri, random_tiles(10))
    content = json.loads(storage.read_bytes(manifests.manifest_uri(index_uri, snapshot_id)))
    del content["shards"][0]["lists"]
    name = rewritten(index_uri, snapshot_id, shards=content["shards"])
    with pytest.raises(CorruptArtifact, match="is not an index manifest of format 4"):
        read_manifest(index_uri, name)


def test_the_widths_of_an_index_are_those_of_its_shards(index_uri: str) -> None:
    manifest = read_manifest(index_uri, build(index_uri, random_tiles(60), 2))
    one, two = manifest.shards

    def widths(*bits: int) -> Manifest:
        pairs = zip((one, two), bits, strict=True)
        shards = [
            shard.model_copy(update={"any_heading_bits": width, "lists": width}) for shard, width in pairs
        ]
        return manifest.model_copy(update={"shards": shards})

    assert (widths(24, 24).any_heading_bits, widths(24, 24).lists) == (24, 24)
    assert (widths(24, 0).any_heading_bits, widths(24, 0).lists) == (0, 24)
    assert widths(24, 16).any_heading_bits == 0
    empty = two.model_copy(update={"count": 0, "any_heading_bits": 0})
    assert manifest.model_copy(update={"shards": [widths(24, 24).shards[0], empty]}).any_heading_bits == 24
    assert manifest.model_copy(update={"shards": []}).lists == 0
