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
import ray
from index.building import nearest_by_floats

from geoloc.core import geodesy, part_table, schemas, storage
from geoloc.core.errors import (
    ArtifactError,
    CommitConflict,
    ConfigError,
    InputError,
    ModelMismatch,
    StorageError,
)
from geoloc.index.format.commit import read_head
from geoloc.index.format.manifest import read_manifest
from geoloc.index.search.region import circle
from geoloc.index.search.snapshot import Snapshot
from geoloc.stages import index_build
from geoloc.stages.index_build import IndexConfig, IndexInputs, run

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
        return schemas.conform(pa.table(columns), schemas.codes_schema(width, dim))

    def write(self, uri: str, *, pieces: int = 3, model_id: str = MODEL_ID, order: int | None = None) -> str:
        rows = (
            np.arange(len(self.ids))
            if order is None
            else np.random.default_rng(order).permutation(len(self.ids))
        )
        tables = [self.table(some, model_id) for some in np.array_split(rows, pieces)]
        part_table.write_table(uri, tables, kind="codes", fingerprint="codes")
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
    exact = nearest_by_floats(snapshot, gallery.embeddings[:5].astype(np.float32), k=3)
    wanted = np.argsort(-(gallery.embeddings[:5].astype(float) @ gallery.embeddings.astype(float).T), axis=1)[
        :, :3
    ]
    assert exact.tile_ids.tolist() == [[gallery.ids[row] for row in rows] for rows in wanted]
    assert run(IndexConfig(), inputs, output) == result.model_copy(update={"reused": True})


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("partition", ["space", "even"])
def test_the_bytes_do_not_depend_on_the_table_s_parts_or_rows(tmp_path: Path, partition: str) -> None:
    model = write_model(str(tmp_path / "model"))
    shards = []
    for name, pieces, order in (("a", 1, None), ("b", 4, 7)):
        codes = Gallery(300).write(str(tmp_path / f"codes-{name}"), pieces=pieces, order=order)
        output = str(tmp_path / f"index-{name}")
        result = run(
            IndexConfig(shards=3, partition=partition), IndexInputs(codes=codes, model=model), output
        )
        manifest = read_manifest(output, result.snapshot_id)
        shards.append([(shard.count, shard.bounds, shard.files) for shard in manifest.shards])
    assert shards[0] == shards[1]
    assert [count for count, _, _ in shards[0]] == [100, 100, 100]


@pytest.mark.usefixtures("ray_local")
def test_shorter_codes_no_embeddings_and_no_coordinates(tmp_path: Path) -> None:
    gallery = Gallery(40, located=False)
    inputs = IndexInputs(
        codes=gallery.write(str(tmp_path / "codes")), model=write_model(str(tmp_path / "model"))
    )
    output = str(tmp_path / "index")
    run(IndexConfig(bits=64, keep_embeddings=False, shards=2), inputs, output)
    snapshot = Snapshot.open(output)
    assert (snapshot.bits, snapshot.embedding_dim, snapshot.located) == (64, None, False)
    assert snapshot.search(gallery.codes[:, :8].copy(), k=1).distance_bits.max() == 0
    with pytest.raises(InputError, match="without coordinates"):
        snapshot.search(gallery.codes[:1, :8].copy(), k=1, region=circle(0, 0, 5))


@pytest.mark.usefixtures("ray_local")
def test_an_index_of_something_else_needs_overwrite_and_keeps_the_old_snapshot(
    inputs: IndexInputs, tmp_path: Path
) -> None:
    output = str(tmp_path / "index")
    first = run(IndexConfig(shards=2), inputs, output)
    with pytest.raises(ArtifactError, match="pass --overwrite to add a snapshot of these on top"):
        run(IndexConfig(shards=3), inputs, output)
    second = run(IndexConfig(shards=3), inputs, output, overwrite=True)
    assert read_manifest(output, second.snapshot_id).parent == first.snapshot_id
    assert Snapshot.open(output, first.snapshot_id).count == Snapshot.open(output).count == 500


@pytest.mark.usefixtures("ray_local")
def test_a_damaged_index_is_mended_in_place(inputs: IndexInputs, tmp_path: Path) -> None:
    output = str(tmp_path / "index")
    result = run(IndexConfig(), inputs, output)
    good = files_of(output)
    for file in storage.list_files(output):
        if file.name in ("codes.npy", "model.safetensors"):
            storage.write_bytes(file.uri, b"x" * file.size_bytes)
    assert run(IndexConfig(), inputs, output, overwrite=True).snapshot_id == result.snapshot_id
    assert files_of(output) == good
    # A file that is missing is noticed without being asked.
    storage.delete(next(file.uri for file in storage.list_files(output) if file.name == "tiles.arrow"))
    again = run(IndexConfig(), inputs, output)
    assert (again.snapshot_id, again.reused) == (result.snapshot_id, False)
    assert files_of(output) == good
    storage.write_bytes(storage.join(output, "CURRENT"), b"nonsense\n")
    with pytest.raises(ArtifactError, match="CURRENT"):
        run(IndexConfig(), inputs, output)
    assert run(IndexConfig(), inputs, output, overwrite=True).snapshot_id == result.snapshot_id


@pytest.mark.usefixtures("ray_local")
def test_the_same_weights_with_other_notes_leave_the_older_model_alone(
    inputs: IndexInputs, tmp_path: Path
) -> None:
    output = str(tmp_path / "index")
    first = run(IndexConfig(), inputs, output)
    other = IndexInputs(codes=inputs.codes, model=write_model(str(tmp_path / "other"), note="trained again"))
    second = run(IndexConfig(), other, output, overwrite=True)
    models = [Snapshot.open(output, result.snapshot_id).model_uri for result in (first, second)]
    assert models[0] != models[1]
    assert Path(models[0], "model.json").read_bytes() == Path(inputs.model, "model.json").read_bytes()
    assert Path(models[1], "model.json").read_bytes() == Path(other.model, "model.json").read_bytes()


@pytest.mark.usefixtures("ray_local")
def test_the_slower_of_two_builders_gets_a_conflict(
    inputs: IndexInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "index")
    original = index_build._copy_model
    faster: list[str] = []

    def overtaken(*arguments):  # type: ignore[no-untyped-def]
        if not faster:
            faster.append("")
            faster[0] = run(IndexConfig(shards=1), inputs, output, overwrite=True).snapshot_id
        return original(*arguments)

    monkeypatch.setattr(index_build, "_copy_model", overtaken)
    with pytest.raises(CommitConflict, match="while this one worked on the first one"):
        run(IndexConfig(shards=2), inputs, output)
    assert read_head(output).snapshot_id == faster[0]


@pytest.mark.usefixtures("ray_local")
def test_what_does_not_belong_together_is_refused(inputs: IndexInputs, tmp_path: Path) -> None:
    output = str(tmp_path / "index")
    other = IndexInputs(codes=inputs.codes, model=write_model(str(tmp_path / "m2"), model_id="geoloc-other"))
    with pytest.raises(ModelMismatch, match="made by the model 'geoloc-0123456789ab', not by 'geoloc-other'"):
        run(IndexConfig(), other, output)
    gallery = Gallery(20)
    gallery.ids[7] = gallery.ids[11]
    twice = IndexInputs(codes=gallery.write(str(tmp_path / "twice")), model=inputs.model)
    with pytest.raises(ArtifactError, match=f"tile id '{gallery.ids[7]}' appears more than once"):
        run(IndexConfig(), twice, output)
    assert read_head(output).snapshot_id is None


def test_inputs_that_cannot_be_used_are_refused_before_ray_starts(
    inputs: IndexInputs, tmp_path: Path
) -> None:
    output = str(tmp_path / "index")
    with pytest.raises(ConfigError, match=r"bits is 256, the codes in .* have 128"):
        run(IndexConfig(bits=256), inputs, output)
    with pytest.raises(ArtifactError, match="There is no finished model"):
        run(IndexConfig(), IndexInputs(codes=inputs.codes, model=str(tmp_path)), output)
    with pytest.raises(ArtifactError, match="There is no table"):
        run(IndexConfig(), IndexInputs(codes=str(tmp_path / "none"), model=inputs.model), output)
    longer = IndexInputs(codes=Gallery(5, bits=512).write(str(tmp_path / "longer")), model=inputs.model)
    with pytest.raises(ModelMismatch, match=r"have 512 bits, the model 'geoloc-0123456789ab' makes 128"):
        run(IndexConfig(), longer, output)
    empty = IndexInputs(codes=Gallery(0).write(str(tmp_path / "empty"), pieces=1), model=inputs.model)
    with pytest.raises(InputError, match="has no rows"):
        run(IndexConfig(), empty, output)
    with pytest.raises(ArtifactError, match="already holds files that are not an index"):
        run(IndexConfig(), inputs, inputs.codes)


@pytest.mark.usefixtures("ray_local")
def test_what_does_not_fit_is_refused_with_the_figures(
    inputs: IndexInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(index_build, "_free_bytes", lambda _: 1000)
        with pytest.raises(
            StorageError, match=r"needs about .* of disk while it is built, .* has 1.0 kB free"
        ):
            run(IndexConfig(), inputs, output)
    with monkeypatch.context() as patch:
        patch.setattr(index_build, "_nodes", lambda: [{"Alive": True, "Resources": {"memory": 1000}}])
        with pytest.raises(
            ConfigError, match=r"A shard of 125 tiles needs about .* Ask for more shards \(now 4\)"
        ):
            run(IndexConfig(), inputs, output)
    assert not storage.exists(output), "nothing is written before it is known to fit"
    said = capsys.readouterr().err
    assert "500 tiles x 128 bits in 4 shards of about 125; about 49.0 kB of disk" in said
    told = index_build.estimate_build(IndexConfig(), inputs, output)
    assert (told.tiles, told.shards, told.tiles_per_shard) == (500, 4, 125)
    assert told.text() in said
    assert told.disk_bytes < told.disk_bytes + told.scratch_bytes < 10**6
    assert not storage.exists(output), "an estimate writes nothing"


def test_the_first_part_that_is_read_says_nothing_about_speed(monkeypatch):
    """It also loads libraries and opens connections, which was taken for a slow store."""
    parts = [part_table.Part(name=f"part-{n:05d}.parquet", rows=1, bytes=1000, sha256="") for n in range(5)]
    clock = [0.0]
    read = []

    def reading(uri, part):
        read.append(part)
        clock[0] += 0.5

    monkeypatch.setattr(index_build.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(part_table, "read_part", reading)
    assert index_build._read_speed("uri", parts) == 2000.0
    assert read == parts[1:4]
    assert index_build._read_speed("uri", parts[:1]) == 2000.0


KILLED = """
    import sys
    from geoloc.stages import index_build
    from geoloc.stages.index_build import IndexConfig, IndexInputs, run

    run(IndexConfig(shards=6), IndexInputs(codes=sys.argv[1], model=sys.argv[2]), sys.argv[3])
"""


@pytest.mark.usefixtures("ray_local")
def test_a_build_killed_halfway_and_run_again_equals_one_run(tmp_path: Path) -> None:
    gallery = Gallery(60_000, dim=256)
    inputs = IndexInputs(
        codes=gallery.write(str(tmp_path / "codes")), model=write_model(str(tmp_path / "model"))
    )
    output, reference = str(tmp_path / "index"), str(tmp_path / "reference")
    receipts = Path(output, "snapshots")
    address = ray.get_runtime_context().gcs_address  # a driver of its own on the session's Ray
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), inputs.codes, inputs.model, output],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "RAY_ADDRESS": address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while child.poll() is None and not list(receipts.glob("*/shard-*.json")):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = {path: path.stat().st_mtime_ns for path in receipts.glob("*/shard-*.json")}
    assert 0 < len(done) < 6, "it was to be killed halfway"
    assert read_head(output).snapshot_id is None
    time.sleep(1.0)  # its tasks end with it
    resumed = run(IndexConfig(shards=6), inputs, output)
    whole = run(IndexConfig(shards=6), inputs, reference)
    assert resumed.snapshot_id == whole.snapshot_id
    left = {name: sha for name, sha in files_of(output).items() if "/.tmp-" not in name}
    assert left == files_of(reference)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished shards were made again"


@pytest.mark.usefixtures("ray_local")
def test_an_index_on_s3_equals_the_local_one(inputs: IndexInputs, tmp_path: Path, s3_uri: str) -> None:
    local = run(IndexConfig(), inputs, str(tmp_path / "index"))
    for name in ("codes", "model"):
        for file in storage.list_files(getattr(inputs, name)):
            storage.copy_file(file.uri, storage.join(s3_uri, name, file.name))
    there = IndexInputs(codes=f"{s3_uri}/codes", model=f"{s3_uri}/model")
    remote = run(IndexConfig(), there, f"{s3_uri}/index")
    assert remote.snapshot_id == local.snapshot_id
    assert files_of(remote.index_uri) == files_of(local.index_uri)
    assert run(IndexConfig(), there, f"{s3_uri}/index").reused
    gallery = Gallery(500)
    assert (
        Snapshot.open(remote.index_uri).search(gallery.codes[:9], k=1).tile_ids[:, 0].tolist()
        == gallery.ids[:9]
    )
