from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from pydantic import ValidationError
from small_ingest import part_path

from geoloc import cli
from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import ArtifactError, ConfigError, InputError, TooManyBadRows
from geoloc.core.geodesy import map_tile_bounds
from geoloc.stages import export_webdataset, ingest
from geoloc.stages.export_webdataset import ShardExportConfig, ShardExportInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from tests.sources.datasets import miniatures

SMALL = IngestConfig(rows_per_part=5, max_bad_share=0.3)
MAKERS: dict[str, tuple[Callable[[Path], Path], str, str | None, tuple[int, int, int]]] = {
    "cvusa": (miniatures.make_cvusa, "val", "cvusa", (4, 4, 4)),
    "cvact": (miniatures.make_cvact, "test", "cvact-test-5m", (4, 4, 4)),
    "vigor": (miniatures.make_vigor, "same-area-test", "vigor-same-area", (36, 8, 32)),
    "university1652": (
        miniatures.make_university,
        "satellite-to-drone",
        "university1652-satellite-to-drone",
        (2, 9, 6),
    ),
    "map25d": (miniatures.make_map25d, "wallstreet5kU", "map25d-single-image", (5, 5, 5)),
}


def inputs(name: str, root: Path | str, **values: object) -> IngestInputs:
    return IngestInputs(dataset=name, root=str(root), **{"split": MAKERS[name][1], **values})  # type: ignore[arg-type]


def note(output: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((output / "dataset.json").read_text())
    return read


@pytest.mark.usefixtures("ray_local", "parts_here")
@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_becomes_tables_with_unchanged_pictures_and_a_note(tmp_path: Path, name: str) -> None:
    make, split, protocol, (tile_count, query_count, pair_count) = MAKERS[name]
    root, output = make(tmp_path / "data"), tmp_path / "out"
    result = ingest.run(SMALL, inputs(name, root), str(output))
    tiles, queries, pairs = (
        part_table.read(str(output / kind), kind=kind) for kind in ("tiles", "queries", "pairs")
    )
    assert (tiles.num_rows, queries.num_rows, pairs.num_rows) == (tile_count, query_count, pair_count)
    for table, schema in ((tiles, schemas.TILES), (queries, schemas.QUERIES), (pairs, schemas.PAIRS)):
        assert table.column_names == schema.names
    on_disk = {path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {*tiles["image"].to_pylist(), *queries["image"].to_pylist()} <= on_disk
    assert set(pairs["tile_id"].to_pylist()) <= set(tiles["tile_id"].to_pylist())
    assert set(pairs["query_id"].to_pylist()) <= set(queries["query_id"].to_pylist())
    written = note(output)
    assert {key: written[key] for key in ("name", "split", "protocol")} == {
        "name": name,
        "split": split,
        "protocol": protocol,
    }
    assert written["counts"] == {
        "tiles": tile_count,
        "queries": query_count,
        "pairs": pair_count,
        "listed_tiles": tile_count,
        "listed_queries": query_count,
    }
    assert set(written) == {
        *("name", "split", "protocol", "counts", "published_counts", "findings", "fingerprint")
    }
    assert not result.reused
    moved = tmp_path / "moved"
    root.rename(moved)
    assert ingest.run(SMALL, inputs(name, moved), str(output)).reused
    assert note(output)["fingerprint"] == written["fingerprint"]


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_tiles_with_places_have_cells_and_geometry_and_those_without_have_none(tmp_path: Path) -> None:
    for name, known in (("vigor", True), ("university1652", False)):
        ingest.run(SMALL, inputs(name, MAKERS[name][0](tmp_path / name)), str(tmp_path / "out" / name))
        table = part_table.read(str(tmp_path / "out" / name / "tiles"))
        for column in ("lat", "lon", "cell", "geometry"):
            assert table[column].null_count == (0 if known else table.num_rows), column
        assert table["place_id"].null_count == (table.num_rows if known else 0)


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_missing_and_broken_pictures_are_in_quarantine_and_their_pairs_left_out(tmp_path: Path) -> None:
    root = miniatures.make_vigor(tmp_path / "data")
    photos = sorted((root / "Seattle" / "panorama").iterdir())[2:]
    photos[0].unlink()
    photos[1].write_bytes(photos[1].read_bytes()[:400])
    result = ingest.run(SMALL, inputs("vigor", root), str(tmp_path / "out"))
    assert result.queries is not None
    assert result.queries.quarantined == {"missing_file": 1, "truncated": 1}
    written = note(tmp_path / "out")
    assert written["counts"]["queries"] == 6  # type: ignore[index]
    assert written["counts"]["pairs"] == 24  # type: ignore[index]
    findings = "\n".join(written["findings"])  # type: ignore[arg-type]
    assert "1 queries are in quarantine: truncated." in findings
    # A picture that is not there has no pairs in the plan; the broken one loses its four.
    assert "4 pairs are left out" in findings
    rows = [
        row
        for path in sorted((tmp_path / "out" / "queries" / "quarantine").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert {row["key"] for row in rows} == {photo.name for photo in photos}
    strict = SMALL.model_copy(update={"max_bad_share": 0.1})
    with pytest.raises(TooManyBadRows, match=r"2 of 8 queries are bad \(1 missing_file, 1 truncated\)"):
        ingest.run(strict, inputs("vigor", root), str(tmp_path / "strict"))


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_sizes_are_changed_only_when_asked(tmp_path: Path) -> None:
    root = miniatures.make_cvusa(tmp_path / "data")
    config = SMALL.model_copy(update={"tile_px": 48, "max_image_px": 154})
    ingest.run(config, inputs("cvusa", root), str(tmp_path / "small"))
    ingest.run(SMALL, inputs("cvusa", root), str(tmp_path / "whole"))

    def read(output: str, kind: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = part_table.read(str(tmp_path / output / kind)).to_pylist()
        return rows

    for small, whole in zip(read("small", "tiles"), read("whole", "tiles"), strict=True):
        assert Image.open(io.BytesIO(small["image"])).size == (48, 48)  # type: ignore[arg-type]
        assert small["metres_per_pixel"] == pytest.approx(2 * whole["metres_per_pixel"])  # type: ignore[operator]
    for row in read("small", "queries"):
        assert Image.open(io.BytesIO(row["image"])).size == (154, 28)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="made from other inputs or settings; pass --overwrite"):
        ingest.run(SMALL, inputs("cvusa", root), str(tmp_path / "small"))


@pytest.mark.usefixtures("ray_local")
def test_a_data_set_on_s3_gives_the_same_tables(tmp_path: Path, s3_uri: str) -> None:
    root = miniatures.make_map25d(tmp_path / "data")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            storage.write_bytes(f"{s3_uri}/data/{path.relative_to(root)}", path.read_bytes())
    ingest.run(SMALL, inputs("map25d", f"{s3_uri}/data"), f"{s3_uri}/out")
    ingest.run(SMALL, inputs("map25d", root), str(tmp_path / "out"))
    for kind in ("tiles", "queries", "pairs"):
        assert part_table.read(f"{s3_uri}/out/{kind}").equals(part_table.read(str(tmp_path / "out" / kind)))


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_map_folders_give_tiles_alone(tmp_path: Path) -> None:
    root = miniatures.make_xyz(tmp_path / "data")
    result = ingest.run(SMALL, IngestInputs(dataset="xyz", root=str(root)), str(tmp_path / "out"))
    assert result.queries is None
    assert result.pairs is None
    assert part_table.read(str(tmp_path / "out" / "tiles"))["tile_id"].to_pylist()[0] == "18/239626/159500"
    assert note(tmp_path / "out")["counts"] == {"tiles": 6, "listed_tiles": 6}


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_map_folders_take_photos_and_pair_them(tmp_path: Path) -> None:
    root = miniatures.make_xyz(tmp_path / "data")
    (x, y), zoom = (239_626, 159_501), 18
    south, west, north, east = map_tile_bounds(x, y, zoom)
    miniatures.picture(tmp_path / "p.jpg", 128, 64, 1)
    lat, lon = (south + north) / 2 + 0.00005, (west + east) / 2 - 0.0001
    (tmp_path / "photos.csv").write_text(f"id,photo,lat,lon\nq,p.jpg,{lat},{lon}\n")
    chosen = IngestInputs(dataset="xyz", root=str(root), photos=str(tmp_path / "photos.csv"))
    result = ingest.run(SMALL, chosen, str(tmp_path / "out"))
    assert not result.reused
    (pair,) = part_table.read(str(tmp_path / "out" / "pairs")).to_pylist()
    assert (pair["tile_id"], pair["relation"]) == (f"{zoom}/{x}/{y}", "positive")
    assert pair["north_m"] == pytest.approx(5.5, abs=0.1)
    assert pair["east_m"] == pytest.approx(-0.0001 * 111_320 * np.cos(np.radians(lat)), abs=0.1)
    assert ingest.run(SMALL, chosen, str(tmp_path / "out")).reused


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_shards_carry_everything_there_and_back_and_the_webdataset_package_reads_them(tmp_path: Path) -> None:
    root = miniatures.make_vigor(tmp_path / "data")
    ingest.run(SMALL, inputs("vigor", root), str(tmp_path / "tables"))
    config = ShardExportConfig(samples_per_shard=3)
    chosen = ShardExportInputs(tables=str(tmp_path / "tables"))
    result = export_webdataset.run(config, chosen, str(tmp_path / "shards"))
    assert export_webdataset.run(config, chosen, str(tmp_path / "shards")).reused
    paths = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    assert len(paths) == result.shards
    assert sum(Path(path).stat().st_size for path in paths) == result.bytes
    read = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(read) == result.samples
    photos = {json.loads(one["json"])["query"]["query_id"]: one for one in read if "ground.jpg" in one}
    tables_of = {
        kind: part_table.read(str(tmp_path / "tables" / kind)) for kind in ("tiles", "queries", "pairs")
    }
    for row in tables_of["queries"].to_pylist():
        assert photos[row["query_id"]]["ground.jpg"] == row["image"]
        assert "aerial.png" in photos[row["query_id"]]
    again = tmp_path / "again"
    ingest.run(SMALL, IngestInputs(dataset="webdataset", root=str(tmp_path / "shards")), str(again))
    for kind, key in (("tiles", ["tile_id"]), ("queries", ["query_id"]), ("pairs", ["query_id", "tile_id"])):
        order = [(name, "ascending") for name in key]
        back = part_table.read(str(again / kind)).sort_by(order)
        for column in back.column_names:
            assert back[column].equals(tables_of[kind].sort_by(order)[column]), (kind, column)
    assert note(again)["protocol"] == "vigor-same-area"
    assert note(again)["name"] == "vigor"


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_shards_written_by_the_webdataset_package_are_read(tmp_path: Path) -> None:
    picture = miniatures.picture(tmp_path / "a.jpg", 64, 64, 1)
    (tmp_path / "train").mkdir()
    with webdataset.TarWriter(str(tmp_path / "train" / "s-0.tar")) as writer:
        for number in range(3):
            content = {
                "query": {"query_id": f"q{number}", "view": "drone", "fov_deg": 60, "lat": 10.0, "lon": 20.0},
                "tile": {"tile_id": "t", "metres_per_pixel": 0.5, "lat": 10.0, "lon": 20.0},
                "pairs": [{"query_id": f"q{number}", "tile_id": "t"}],
            }
            writer.write(
                {"__key__": f"s{number}", "ground.jpg": picture, "aerial.jpg": picture, "json": content}
            )
    chosen = IngestInputs(dataset="webdataset", root=str(tmp_path), split="train")
    result = ingest.run(SMALL, chosen, str(tmp_path / "out"))
    assert result.tiles is not None
    assert result.queries is not None
    assert (result.tiles.rows, result.queries.rows) == (1, 3)
    assert part_table.read(str(tmp_path / "out" / "pairs"))["relation"].to_pylist() == ["positive"] * 3


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    root = miniatures.make_vigor(tmp_path / "data")
    ingest.run(SMALL, inputs("vigor", root), str(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    (tmp_path / "half" / "dataset.json").unlink()
    shutil.rmtree(tmp_path / "half" / "pairs")
    part_path(tmp_path / "half" / "tiles", 3).unlink()
    (tmp_path / "half" / "tiles" / part_table.MANIFEST_NAME).unlink()
    assert not ingest.run(SMALL, inputs("vigor", root), str(tmp_path / "half")).reused
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file():
            assert (
                tmp_path / "half" / path.relative_to(tmp_path / "whole")
            ).read_bytes() == path.read_bytes()


def test_a_data_set_is_not_mixed_with_imagery_and_needs_its_root(capsys: pytest.CaptureFixture[str]) -> None:
    def sentence(**values: object) -> str:
        with pytest.raises((ConfigError, ValidationError)) as caught:
            IngestInputs(**values)  # type: ignore[arg-type]
        return str(caught.value)

    assert "dataset brings its own pictures; leave imagery" in sentence(dataset="vigor", root="a", photos="b")
    assert "Say where the data set vigor lies: give root" in sentence(dataset="vigor")
    assert "root, split and cities belong to a data set" in sentence(photos="a", split="test")
    words = ["ingest", "--dataset", "vigour", "--root", "/nowhere", "--output", "/tmp/never"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.endswith("There is no data set 'vigour'; did you mean 'vigor'?\n")


def test_broken_shards_are_one_sentence_each(tmp_path: Path) -> None:
    from geoloc.sources.datasets import registry

    shard = tmp_path / "s.tar"
    picture = miniatures.picture(tmp_path / "a.jpg", 64, 64, 1)

    def write(**members: bytes) -> None:
        with tarfile.open(shard, "w") as tar:
            for name, data in members.items():
                header = tarfile.TarInfo(f"k.{name.replace('_', '.')}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))

    def sentence() -> str:
        dataset = registry.find("webdataset")
        with pytest.raises(InputError) as caught:
            dataset.plan(dataset.request(str(tmp_path), None))
        assert str(caught.value).startswith(f"'{shard}'")
        return str(caught.value)

    def content(**values: object) -> bytes:
        tile = {"tile_id": "t", "metres_per_pixel": 1.0}
        return json.dumps({"tile": tile, **values}).encode()

    write(aerial_jpg=picture, json=content())
    whole = shard.read_bytes()
    shard.write_bytes(whole[:900])
    assert "is no whole, uncompressed tar file" in sentence()
    shard.write_bytes(np.random.default_rng(1).bytes(4000))
    assert "is no whole, uncompressed tar file" in sentence()
    write(aerial_jpg=picture)
    assert "sample 'k': it has no .json. Expected layout" in sentence()
    write(aerial_jpg=picture, json=b"{")
    assert "sample 'k': its JSON cannot be read" in sentence()
    write(json=content())
    assert "it has the tile and no aerial picture" in sentence()
    write(aerial_jpg=picture, ground_jpg=picture, json=content())
    assert "it has the ground picture and no query" in sentence()
    write(aerial_jpg=picture, json=content(tile={"tile_id": "t"}))
    assert "tile has no metres_per_pixel" in sentence()
    write(aerial_jpg=picture, json=content(tile={"tile_id": "t", "metres_per_pixel": 1.0, "lat": "10"}))
    assert "tile.lat is '10', not a number" in sentence()
    query = {"query_id": "q", "view": "boat", "fov_deg": 90.0}
    write(aerial_jpg=picture, ground_jpg=picture, json=content(query=query))
    assert "view is 'boat', not one of panorama, street, drone" in sentence()
    write(aerial_jpg=picture, json=content(pairs=[{"tile": "t"}]))
    assert "pairs holds {'tile': 't'}" in sentence()
    pair = {"query_id": "q", "tile_id": "t", "relation": "friend"}
    write(aerial_jpg=picture, json=content(pairs=[pair]))
    assert "relation is 'friend', not one of positive, semi_positive" in sentence()
    with pytest.raises(ArtifactError, match=r"every .tar shard is missing"):
        registry.find("webdataset").plan(registry.find("webdataset").request(str(tmp_path), "test"))
