"""An index as FAISS files: plain FAISS opens them and gives the lists of our search, ties included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from index.building import Tiles, build, random_tiles

from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.index.search.snapshot import Snapshot
from geoloc.stages.index_export import IndexExportConfig, IndexExportInputs, run


def exported(tmp_path: Path, tiles: Tiles, kind: str = "flat", shards: int = 3, lists: int = 0) -> Path:
    index = str(tmp_path / "index")
    build(index, tiles, shards=shards)
    out = tmp_path / f"export-{kind}"
    config = IndexExportConfig(kind=kind, lists=lists)
    result = run(config, IndexExportInputs(index=index), str(out))
    assert result.tiles == len(tiles)
    assert result.bytes == sum((out / name).stat().st_size for name in result.files)
    assert run(config, IndexExportInputs(index=index), str(out)).reused
    return out


def same_lists(tmp_path: Path, tiles: Tiles, queries: np.ndarray, k: int) -> None:
    out = exported(tmp_path, tiles)
    index = faiss.read_index_binary(str(out / "tiles.faiss"))
    assert type(index) is faiss.IndexBinaryFlat
    table = pq.read_table(out / "tiles.parquet")
    assert table.column_names == ["row", "tile_id", "lat", "lon"]
    ids = np.array(table["tile_id"].to_pylist(), dtype=object)
    matches = Snapshot.open(str(tmp_path / "index")).search(queries, k=k)
    distances, labels = index.search(queries, k)
    np.testing.assert_array_equal(distances, matches.distance_bits)
    np.testing.assert_array_equal(ids[labels], matches.tile_ids)
    place = {name: row for row, name in enumerate(tiles.ids)}
    order = [place[name] for name in ids]
    np.testing.assert_array_equal(table["lat"].to_numpy(), tiles.lat[order])
    np.testing.assert_array_equal(table["lon"].to_numpy(), tiles.lon[order])


def test_plain_faiss_gives_our_lists(tmp_path: Path) -> None:
    tiles = random_tiles(3000, bits=64, dim=None, seed=1, distinct=300)
    queries = np.random.default_rng(2).integers(0, 256, (50, 8), dtype=np.uint8)
    same_lists(tmp_path, tiles, queries, 40)


@pytest.mark.slow
def test_a_hundred_thousand_codes_and_a_thousand_queries(tmp_path: Path) -> None:
    tiles = random_tiles(100_000, bits=256, dim=None, seed=3)
    rng = np.random.default_rng(4)
    codes = tiles.codes.copy()
    codes[::2] = codes[rng.integers(0, 4000, 50_000)]  # half of them repeat, so ties cross every border of k
    queries = rng.integers(0, 256, (1000, 32), dtype=np.uint8)
    queries[::2] = codes[rng.integers(0, 100_000, 500)]
    same_lists(tmp_path, replace(tiles, codes=codes), queries, 50)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("kind", "found"), [("ivf", faiss.IndexBinaryIVF), ("hnsw", faiss.IndexBinaryIDMap)])
def test_approximate_kinds_of_codes_have_a_file_a_shard(tmp_path: Path, kind: str, found: type) -> None:
    tiles = random_tiles(600, bits=64, dim=None, seed=5)
    out = exported(tmp_path, tiles, kind, shards=2, lists=4)
    files = sorted(out.glob("shard-*.faiss"))
    assert len(files) == 2
    ids = np.array(pq.read_table(out / "tiles.parquet")["tile_id"].to_pylist(), dtype=object)
    seen: list[str] = []
    code_of = dict(zip(tiles.ids, tiles.codes, strict=True))
    for file in files:
        index = faiss.read_index_binary(str(file))
        assert type(index) is found
        if kind == "ivf":
            index.nprobe = index.nlist
        queries = tiles.codes[:40]
        distances, labels = index.search(queries, 5)
        for query in range(40):
            for distance, label in zip(distances[query], labels[query], strict=True):
                assert np.bitwise_count(code_of[ids[label]] ^ queries[query]).sum() == distance
        hits = labels[distances[:, 0] == 0, 0]
        seen += ids[hits].tolist()
    assert set(tiles.ids[:40]) <= set(seen)  # each tile finds itself in its shard


@pytest.mark.usefixtures("ray_local")
def test_rabitq_of_embeddings(tmp_path: Path) -> None:
    tiles = random_tiles(600, bits=64, dim=32, seed=6)
    out = exported(tmp_path, tiles, "ivf-rabitq", shards=1, lists=4)
    index = faiss.read_index(str(out / "shard-00000.faiss"))
    assert type(index) is faiss.IndexIVFRaBitQ
    assert index.ntotal == 600
    index.nprobe = 4
    ids = np.array(pq.read_table(out / "tiles.parquet")["tile_id"].to_pylist(), dtype=object)
    unit = tiles.embeddings.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = index.search(unit[:50], 10)[1]
    hits = sum(tiles.ids[query] in ids[labels[query]] for query in range(50))
    assert hits >= 40


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    index = str(tmp_path / "index")
    build(index, random_tiles(50, bits=64, dim=None))
    with pytest.raises(ConfigError, match="keeps none"):
        run(IndexExportConfig(kind="ivf-rabitq"), IndexExportInputs(index=index), str(tmp_path / "a"))
    run(IndexExportConfig(), IndexExportInputs(index=index), str(tmp_path / "b"))
    with pytest.raises(ArtifactError):
        run(IndexExportConfig(kind="ivf"), IndexExportInputs(index=index), str(tmp_path / "b"))
