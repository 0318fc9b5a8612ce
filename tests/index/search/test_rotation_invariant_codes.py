"""Codes that no turn changes: their definition by loops, their file in a shard, and searches by them."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import storage
from geoloc.core.errors import ConfigError, CorruptArtifact, QueryError
from geoloc.index.build.shard_build import build_shard
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import ANY_HEADING_NAME
from geoloc.index.format.shard import file_entry, save_array
from geoloc.index.search import rotation_invariant_codes
from geoloc.index.search.region import box
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder, write_any_heading
from geoloc.index.search.snapshot import Snapshot

from ..build.test_shard_build import tasks_for
from ..building import Tiles, manifest_of, random_tiles

COLUMNS = 8
KIND = AnyHeadingCoder(64, COLUMNS)


def rolled(embeddings: npt.NDArray[np.floating], turn: int) -> npt.NDArray[np.floating]:
    by_column = embeddings.reshape(len(embeddings), -1, COLUMNS)
    return np.roll(by_column, turn, axis=-1).reshape(embeddings.shape)


@given(seed=st.integers(0, 2**16), turn=st.integers(0, COLUMNS - 1))
@settings(max_examples=20, deadline=None)
def test_no_turn_changes_a_code(seed: int, turn: int) -> None:
    embeddings = np.random.default_rng(seed).standard_normal((20, 3 * COLUMNS))
    np.testing.assert_array_equal(KIND.codes(embeddings), KIND.codes(rolled(embeddings, turn)))


def test_a_bit_is_the_sign_of_a_projection_of_products_between_channels() -> None:
    one = np.random.default_rng(3).standard_normal((1, 2 * COLUMNS))
    signs = rotation_invariant_codes._signs(KIND.bits, 2, COLUMNS // 4 + 1)
    bits = np.unpackbits(KIND.codes(one))[: KIND.bits]
    channels = one.reshape(2, COLUMNS)
    for bit in range(KIND.bits):
        total = 0.0
        for frequency, (left, right) in enumerate(signs):
            spectrum = [
                sum(
                    value * cmath.exp(-2j * math.pi * frequency * column / COLUMNS)
                    for column, value in enumerate(row)
                )
                for row in channels
            ]
            for c in range(2):
                for d in range(2):
                    product = spectrum[c] * spectrum[d].conjugate()
                    weight = left[c, bit] * right[d, bit].conjugate()
                    total += (weight * product).real * (1.0 if frequency else math.sqrt(0.5))
        assert bits[bit] == (total > 0)


def test_the_turned_and_disturbed_are_nearer_than_others() -> None:
    rng = np.random.default_rng(5)
    kind = AnyHeadingCoder(512, 32)
    tiles = rng.standard_normal((300, 16 * 32))
    seen = np.roll(tiles[:40].reshape(40, 16, 32), 11, axis=-1).reshape(40, -1)
    seen = seen + 0.7 * rng.standard_normal(seen.shape)
    apart = np.bitwise_count(kind.codes(seen)[:, None] ^ kind.codes(tiles)[None]).sum(-1)
    assert (apart.argmin(1) == np.arange(40)).mean() > 0.9


@pytest.mark.parametrize(("bits", "columns"), [(12, 8), (0, 8), (64, 1)])
def test_what_has_no_turns_or_bytes_is_refused(bits: int, columns: int) -> None:
    with pytest.raises(ConfigError, match="give a multiple of 8 and a model that keeps its columns"):
        AnyHeadingCoder(bits, columns)


def test_embeddings_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="have no 8 columns"):
        KIND.codes(np.ones((2, 12)))


def with_codes(index_uri: str, tiles: Tiles, *, shards: int = 3, coded: int = 3, bits: int = 64) -> Snapshot:
    """An index of which the first `coded` shards carry codes for any heading."""
    pieces = [np.flatnonzero(np.arange(len(tiles)) % shards == shard) for shard in range(shards)]
    manifest = manifest_of(index_uri, tiles, pieces, "test")
    entries = list(manifest.shards)
    for number in range(coded):
        directory = storage.local_path(storage.join(index_uri, entries[number].directory))
        write_any_heading(directory, AnyHeadingCoder(bits, COLUMNS), np.load(directory / "embeddings.npy"))
        files = [*entries[number].files, file_entry(directory / ANY_HEADING_NAME)]
        entries[number] = entries[number].model_copy(update={"files": files, "any_heading_bits": bits})
    commit(index_uri, manifest.model_copy(update={"shards": entries}), read_head(index_uri))
    return Snapshot.open(index_uri, threads=2)


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    return random_tiles(90, dim=2 * COLUMNS, seed=4)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory, tiles: Tiles) -> Snapshot:
    return with_codes(str(tmp_path_factory.mktemp("coded")), tiles)


@pytest.mark.parametrize("region", [None, box(-35.4, 149.1, -35.1, 149.4)])
@pytest.mark.parametrize("by_any_heading", [True, False])
def test_a_shortlist_by_either_code_is_ordered_by_the_callers_score(
    snapshot: Snapshot, tiles: Tiles, by_any_heading: bool, region: object
) -> None:
    rng = np.random.default_rng(6)
    assert tiles.embeddings is not None
    assert tiles.lat is not None
    assert tiles.lon is not None
    asked = rng.integers(0, 256, (3, 4, 32), dtype=np.uint8)
    floats = rng.standard_normal((3, 2 * COLUMNS)).astype(np.float32)
    own = KIND.codes(floats) if by_any_heading else None
    got = snapshot.search_scored(
        asked,
        lambda query, stored: stored.astype(np.float32) @ floats[query],
        k=5,
        shortlist=12,
        region=region,  # type: ignore[arg-type]
        any_heading=own,
    )
    kinds = KIND.codes(tiles.embeddings)
    inside = np.ones(len(tiles), bool)
    if region is not None:
        inside = (tiles.lat >= -35.4) & (tiles.lat <= -35.1) & (tiles.lon >= 149.1) & (tiles.lon <= 149.4)
    for query in range(3):
        near = np.bitwise_count(tiles.codes[:, None] ^ asked[query]).sum(-1).min(1)
        first = near if own is None else np.bitwise_count(kinds ^ own[query]).sum(-1)
        listed = sorted(np.flatnonzero(inside), key=lambda row: (first[row], tiles.ids[row].encode()))[:12]
        score = tiles.embeddings.astype(np.float32) @ floats[query]
        best = sorted(listed, key=lambda row: (-score[row], tiles.ids[row].encode()))[:5]
        assert list(got.tile_ids[query]) == [tiles.ids[row] for row in best]
        assert got.distance_bits[query].tolist() == near[best].tolist()
        np.testing.assert_allclose(got.similarity[query], score[best], rtol=1e-5)


def test_a_part_of_the_shards_is_not_enough(tmp_path: Path, tiles: Tiles, snapshot: Snapshot) -> None:
    assert snapshot.any_heading_bits == 64
    mixed = with_codes(str(tmp_path / "mixed"), tiles, coded=2)
    plain = with_codes(str(tmp_path / "plain"), tiles, coded=0)
    assert mixed.any_heading_bits is plain.any_heading_bits is None
    codes, floats = np.zeros((1, 2, 32), np.uint8), np.ones((1, 2 * COLUMNS))
    for one in (mixed, plain):
        with pytest.raises(QueryError, match="has 0 bits of them for every tile"):
            one.search_scored(
                codes, lambda query, stored: stored[:, 0], k=1, shortlist=1, any_heading=KIND.codes(floats)
            )
    with pytest.raises(QueryError, match="has 64 bits of them"):
        snapshot.search_scored(
            codes,
            lambda query, stored: stored[:, 0],
            k=1,
            shortlist=1,
            any_heading=AnyHeadingCoder(128, COLUMNS).codes(floats),
        )


def test_without_embeddings_nothing_can_be_scored(tmp_path: Path) -> None:
    bare = with_codes(str(tmp_path / "bare"), random_tiles(9, dim=None), coded=0)
    with pytest.raises(QueryError, match="keeps no embeddings"):
        bare.search_scored(
            np.zeros((1, 2, 32), np.uint8), lambda query, stored: stored[:, 0], k=1, shortlist=1
        )
    with pytest.raises(QueryError, match="keeps no embeddings"):
        bare.embeddings_of(np.array([0]))


def test_a_file_that_is_not_of_its_shard_is_corrupt(tmp_path: Path, tiles: Tiles) -> None:
    index = str(tmp_path / "index")
    snapshot = with_codes(index, tiles)
    entry = snapshot.manifest.shards[0]
    path = storage.local_path(storage.join(index, entry.directory)) / ANY_HEADING_NAME
    save_array(path, np.zeros((entry.count + 1, 8), np.uint8))
    with pytest.raises(CorruptArtifact, match=ANY_HEADING_NAME):
        Snapshot.open(index)
    # Even with its checksum in the manifest.
    entries = list(snapshot.manifest.shards)
    files = [file_entry(path) if file.name == ANY_HEADING_NAME else file for file in entry.files]
    entries[0] = entry.model_copy(update={"files": files})
    commit(index, snapshot.manifest.model_copy(update={"shards": entries}), read_head(index))
    with pytest.raises(CorruptArtifact, match=f"{ANY_HEADING_NAME}.*manifest says"):
        Snapshot.open(index)


def test_a_shard_is_built_with_the_codes_of_its_embeddings(tmp_path: Path) -> None:
    index, some = str(tmp_path / "index"), random_tiles(40, bits=128, dim=8)
    tasks = tasks_for(str(tmp_path / "codes"), index, some, 2, shards=2)
    for task in (replace(one, any_heading=AnyHeadingCoder(24, 4)) for one in tasks):
        entry = build_shard(task)
        directory = storage.local_path(storage.join(index, entry.directory))
        assert entry.file(ANY_HEADING_NAME) is not None
        assert entry.any_heading_bits == 24
        codes = AnyHeadingCoder(24, 4).codes(np.load(directory / "embeddings.npy"))
        np.testing.assert_array_equal(np.load(directory / ANY_HEADING_NAME), codes)
