from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from geoloc import geodesy, parts, storage, tables
from geoloc.errors import ArtifactError, CommitConflict, ConfigError, InputError, ModelMismatch, StorageError
from geoloc.index.commit import read_head
from geoloc.index.manifest import read_manifest
from geoloc.index.region import circle
from geoloc.index.snapshot import Snapshot
from geoloc.pipelines import build_index
from geoloc.pipelines.build_index import IndexConfig, IndexInputs, run

MODEL_ID = "geoloc-0123456789ab"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOLOC_CACHE", str(tmp_path / "cache"))


def write_model(uri: str, *, model_id: str = MODEL_ID, note: str = "") -> str:
    weights = b"weights" * 100
    storage.write_bytes(storage.join(uri, "model.safetensors"), weights)
    storage.write_bytes(storage.join(uri, "recipe.yaml"), b"name: geoloc\n")
    card = {
        "format_version": 1,
        "model_id": model_id,
        "weights_sha256": storage.sha256_bytes(weights),
        "recipe_sha256": storage.sha256_bytes(b"name: geoloc\n"),
        "recipe_name": "geoloc",
        "tile_m": 50.0,
        "bits": 128,
        "embedding_dim": 8,
        "fingerprint": note,
    }
    storage.write_bytes(storage.join(uri, "model.json"), json.dumps(card).encode())
    return uri


class Gallery:
    """A codes table and what it holds, to compare with."""

    def __init__(
        self, count: int, *, seed: int = 1, located: bool = True, bits: int = 128, dim: int = 8
    ) -> None:
        rng = np.random.default_rng(seed)
        self.ids = [f"t{number:06d}" for number in rng.permutation(count)]
        self.lat = rng.uniform(-35.4, -35.2, count) if located else None
        self.lon = rng.uniform(149.0, 149.2, count) if located else None
        self.codes = rng.integers(0, 256, (count, bits // 8), dtype=np.uint8)
        self.embeddings = rng.normal(size=(count, dim)).astype(np.float16)

    def table(self, rows: npt.NDArray[np.int64], model_id: str) -> pa.Table:
        width, dim = self.codes.shape[1], self.embeddings.shape[1]
        located = self.lat is not None and self.lon is not None
        columns = {
            "tile_id": [self.ids[row] for row in rows],
            "lat": self.lat[rows] if located else [None] * len(rows),
            "lon": self.lon[rows] if located else [None] * len(rows),
            "cell": geodesy.cells(self.lat[rows], self.lon[rows]) if located else [None] * len(rows),
            "code": pa.array([self.codes[row].tobytes() for row in rows], pa.binary(width)),
            "embedding": pa.FixedSizeListArray.from_arrays(self.embeddings[rows].ravel(), dim),
            "model_id": [model_id] * len(rows),
        }
        return tables.conform(pa.table(columns), tables.codes_schema(width, dim))

    def write(self, uri: str, *, pieces: int = 3, model_id: str = MODEL_ID, order: int | None = None) -> str:
        rows = (
            np.arange(len(self.ids))
            if order is None
            else np.random.default_rng(order).permutation(len(self.ids))
        )
        parts.begin(uri, "codes")
        split = np.array_split(rows, pieces)
        made = [
            parts.write_part(uri, number, self.table(some, model_id)) for number, some in enumerate(split)
        ]
        parts.publish(uri, kind="codes", fingerprint="codes", parts=made)
        return uri


@pytest.fixture
def inputs(tmp_path: Path) -> IndexInputs:
    return IndexInputs(
        codes=Gallery(500).write(str(tmp_path / "codes")), model=write_model(str(tmp_path / "model"))
    )


def files_of(index_uri: str) -> dict[str, str]:
    """Relative name and checksum of every file."""
    return {
        file.uri.removeprefix(index_uri): storage.sha256_file(file.uri)
        for file in storage.list_files(index_uri)
    }


@pytest.mark.usefixtures("ray_local")
def test_an_index_is_built_and_found_again(inputs: IndexInputs, tmp_path: Path) -> None:
    output = str(tmp_path / "index")
    result = run(IndexConfig(), inputs, output)
    assert (result.tiles, result.shards, result.reused) == (500, 4, False)
    snapshot = Snapshot.open(output)
    assert (snapshot.snapshot_id, snapshot.count, snapshot.bits) == (result.snapshot_id, 500, 128)
    assert (snapshot.embedding_dim, snapshot.located) == (8, True)
    gallery = Gallery(500)
    found = snapshot.search(gallery.codes[:50], k=1)
    assert found.tile_ids[:, 0].tolist() == gallery.ids[:50]
    assert not found.distance_bits.any()
    np.testing.assert_array_equal(found.lat[:, 0], gallery.lat[:50])
    exact = snapshot.exact_float(gallery.embeddings[:5].astype(np.float32), k=3)
    wanted = np.argsort(-(gallery.embeddings[:5].astype(float) @ gallery.embeddings.astype(float).T), axis=1)[
        :, :3
    ]
    assert exact.tile_ids.tolist() == [[gallery.ids[row] for row in rows] for rows in wanted]
    assert run(IndexConfig(), inputs, output) == result.model_copy(update={"reused": True})
