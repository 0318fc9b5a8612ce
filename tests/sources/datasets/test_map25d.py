from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoloc.core.errors import ArtifactError, InputError
from geoloc.core.geodesy import SphericalTransverseMercator
from geoloc.sources.datasets import map25d, registry
from geoloc.sources.datasets.cloud import read_array, tile_points
from geoloc.sources.datasets.loading import load_tiles
from geoloc.sources.datasets.rows import CloudPlace, Plan
from tests.sources.datasets.miniatures import lines, make_map25d

AREA = "wallstreet5kU"


def plan(root: Path, area: str = AREA) -> Plan:
    dataset = registry.find("map25d")
    return dataset.plan(dataset.request(str(root), area))


@pytest.mark.parametrize("inner", ["", "datasets"])
def test_rows_of_the_three_lists_belong_together(tmp_path: Path, inner: str) -> None:
    make_map25d(tmp_path / inner)
    made = plan(tmp_path)
    assert made.protocol == "map25d-single-image"
    assert [tile.tile_id for tile in made.tiles] == [f"manhattan/{200 - k:05d}" for k in range(5)]
    assert [query.query_id for query in made.queries] == [f"pano_{k}-AbC" for k in range(5)]
    assert [query.heading_deg for query in made.queries] == [0.0, 30.0, 60.0, 90.0, 120.0]
    assert [(pair.query_id, pair.tile_id) for pair in made.pairs] == [
        (query.query_id, tile.tile_id) for query, tile in zip(made.queries, made.tiles, strict=True)
    ]
    assert (made.tiles[0].lat, made.tiles[0].lon) == (made.queries[0].lat, made.queries[0].lon)


@pytest.mark.parametrize("metres", [True, False])
def test_points_are_about_the_tile_with_north_up_whatever_gives_their_place(
    tmp_path: Path, metres: bool
) -> None:
    made = plan(make_map25d(tmp_path, metres=metres))
    table, refused = load_tiles(made.tiles)
    assert not refused
    for number, flat in enumerate(table["points"].to_pylist()):
        rows = np.array(flat).reshape(-1, 4)
        assert np.allclose(rows, [[1, 2, 10 + number, 4], [-3, -4, 0, 13]], atol=1e-3)
    assert table["map_image"].to_pylist() == table["image"].to_pylist()
    assert table["metres_per_pixel"].to_pylist() == [152 / 64] * 5


def test_without_an_index_array_the_points_are_those_of_the_square(tmp_path: Path) -> None:
    make_map25d(tmp_path)
    shutil.rmtree(tmp_path / f"{AREA}_idx")
    made = plan(tmp_path)
    assert any("5 panoramas have no index array" in one for one in made.findings)
    cloud = np.load(tmp_path / "manhattan" / "manhattanU.npy")
    for tile in made.tiles:
        assert tile.cloud is not None
        rows = tile_points(tile.cloud).reshape(-1, 4)
        inside = (np.abs(cloud[:, 0] - tile.cloud.x) <= 114) & (np.abs(cloud[:, 2] - tile.cloud.y) <= 114)
        assert 0 < inside.sum() < len(cloud)
        assert np.allclose(rows[:, 0], cloud[inside, 0] - tile.cloud.x, atol=1e-3)
        assert np.allclose(rows[:, 1], tile.cloud.y - cloud[inside, 2], atol=1e-3)


def test_without_a_cloud_tiles_have_no_points_and_a_pickle_is_never_read(tmp_path: Path) -> None:
    make_map25d(tmp_path, cloud=False)
    trap = tmp_path / "csv" / f"{AREA}.pickle"
    trap.write_bytes(b"cos\nsystem\n(S'touch trapped'\ntR.")
    os.chmod(trap, 0)
    made = plan(tmp_path)
    assert {tile.cloud for tile in made.tiles} == {None}
    assert any(
        f"{AREA}.pickle is there and was not read, because a pickle can run code" in f for f in made.findings
    )
    assert any("manhattan has no cloud (manhattanU.npy with manhattanU.csv in" in f for f in made.findings)


def test_a_cloud_that_does_not_fit_its_classes_or_indices_is_refused(tmp_path: Path) -> None:
    def sentence(folder: str, change: object) -> str:
        root = make_map25d(tmp_path / folder)
        change(root)  # type: ignore[operator]
        tables, refused = load_tiles(plan(root).tiles[:1])
        assert tables.num_rows == 0
        assert refused[0].reason == "bad_annotation"
        return refused[0].detail

    index = f"{AREA}_idx/pano_0-AbC.npy"
    cloud, classes = "manhattan/manhattanU.npy", "manhattan/manhattanU.csv"
    assert "has 3 lines for 10 points" in sentence("a", lambda root: lines(root / classes, ["1", "2", "3"]))
    assert "is not one class" in sentence("b", lambda root: lines(root / classes, ["wood"] * 10))
    assert "indices from 0 to 10; the cloud has 10" in sentence(
        "c", lambda root: np.save(root / index, np.array([0, 10]))
    )
    assert "not a row of indices" in sentence("d", lambda root: np.save(root / index, np.zeros((2, 2))))
    assert "no whole .npy file" in sentence("e", lambda root: (root / index).write_bytes(b"\x93NUMPY"))
    assert "no whole .npy file" in sentence(
        "f", lambda root: (root / cloud).write_bytes((root / cloud).read_bytes()[:200])
    )
    assert "shape (4,), not points x 3" in sentence("g", lambda root: np.save(root / cloud, np.zeros(4)))
    assert "no whole .npy file" in sentence(
        "h", lambda root: np.save(root / index, np.array([{"a": 1}], dtype=object))
    )


def test_broken_lists_are_named_with_file_and_line(tmp_path: Path) -> None:
    make_map25d(tmp_path)
    folder = tmp_path / "csv"
    whole = {ending: (folder / f"{AREA}{ending}").read_text() for ending in (".csv", "_xy.csv", "_set.csv")}

    def sentence(ending: str, text: str) -> str:
        for name, good in whole.items():
            (folder / f"{AREA}{name}").write_text(text if name == ending else good)
        with pytest.raises(InputError) as caught:
            map25d.read_area(str(tmp_path), AREA)
        assert str(caught.value).startswith(f"'{folder}/{AREA}{ending}', line ")
        return str(caught.value)

    rows = whole["_xy.csv"].splitlines()
    assert "line 1: the panorama is 'pano_1-AbC', not 'pano_0-AbC' as in the csv" in sentence(
        "_xy.csv", "\n".join([*rows[1:], rows[0]])
    )
    assert "line 4: the last of 4 rows where" in sentence("_xy.csv", "\n".join(rows[1:]))
    assert "line 2: 4 columns instead of 5" in sentence(
        "_xy.csv", whole["_xy.csv"].replace("30.0,manhattan", "30.0")
    )
    first = whole[".csv"].splitlines()[0]
    assert "the heading is 'north', not a number" in sentence(
        ".csv", whole[".csv"].replace(first, first.replace(",0.0,", ",north,"))
    )
    assert "of the panorama is not on Earth" in sentence(".csv", whole[".csv"].replace("40.", "140.", 1))
    assert "the heading is 900 degrees" in sentence(".csv", whole[".csv"].replace("30.0,man", "900.0,man"))
    assert "the tile is of 'pittsburgh', the panorama of 'manhattan'" in sentence(
        "_set.csv", whole["_set.csv"].replace("manhattan", "pittsburgh", 1)
    )
    assert "'x1' is not the number of a tile" in sentence("_set.csv", whole["_set.csv"].replace("200", "x1"))


def test_windows_line_ends_are_fine_and_missing_files_are_said(tmp_path: Path) -> None:
    make_map25d(tmp_path)
    before = map25d.read_area(str(tmp_path), AREA).places
    for path in (tmp_path / "csv").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert map25d.read_area(str(tmp_path), AREA).places == before
    (tmp_path / "tiles_manhattan_2019" / "z18" / "00200.png").unlink()
    made = plan(tmp_path)
    assert [(row.key, row.reason) for row in made.refused_tiles] == [("manhattan/00200", "missing_file")]
    shutil.rmtree(tmp_path / "jpegs_manhattan_2019")
    with pytest.raises(
        ArtifactError, match=r"every panorama of map25d's manhattan is missing.*jpegs_manhattan_2019"
    ):
        plan(tmp_path)
    (tmp_path / "csv" / f"{AREA}_set.csv").unlink()
    with pytest.raises(
        ArtifactError, match=rf"{AREA}_set.csv of map25d is missing; it was looked for at '.*/csv/"
    ):
        plan(tmp_path)


@pytest.mark.parametrize("area", ["wallstreet5kU", "hudsonriver5kU"])
def test_real_areas_are_read_whole_and_their_metres_are_the_projections(shared_data: Path, area: str) -> None:
    made = map25d.read_area(str(shared_data / "map25d"), area)
    assert len(made.places) == 5_000
    assert len({place.panoid for place in made.places}) == 5_000
    assert len({place.tile for place in made.places}) == 5_000
    assert {place.city for place in made.places} == {"manhattan"}
    lat, lon, x, y = np.array([(p.lat, p.lon, p.x, p.y) for p in made.places], dtype=np.float64).T
    east, north = SphericalTransverseMercator(map25d.ORIGINS["manhattan"]).to_metres(lat, lon)
    assert np.hypot(east - x, north + y).max() < 1e-6  # asked for: 0.1 m
    ((city, origin, worst),) = map25d.metric_residuals(made)
    assert city == "manhattan"
    assert worst < 1e-6
    assert origin == pytest.approx(map25d.ORIGINS["manhattan"], abs=1e-9)


def test_the_real_example_is_read(shared_data: Path) -> None:
    folder = shared_data / "map25d" / "examples"
    key = "_dlEF8O77LTsFm2G9m7EiA"
    indices = read_array(str(folder / f"{key}.npy"))
    assert (indices.shape, indices.dtype) == ((31_365,), np.int64)
    assert Image.open(folder / f"{key}.jpg").size == (1664, 832)
    assert Image.open(folder / "46265.png").size == (256, 256)
    assert int(indices.max()) == 32_364_596


def test_the_real_index_array_picks_its_rows_from_a_mapped_cloud(shared_data: Path, tmp_path: Path) -> None:
    """The example's 31,365 indices into a cloud of as many points as it needs, in a file with a hole (no disk)."""
    folder = shared_data / "map25d" / "examples"
    indices = np.load(folder / "_dlEF8O77LTsFm2G9m7EiA.npy")
    count = int(indices.max()) + 1
    cloud = np.lib.format.open_memmap(tmp_path / "cityU.npy", mode="w+", dtype=np.float32, shape=(count, 3))
    some = indices[::500]
    cloud[some] = np.stack([some % 97, some % 31, some % 89], axis=1)
    cloud.flush()
    (tmp_path / "cityU.csv").write_bytes(b"4\n" * count)
    place = CloudPlace(
        str(tmp_path / "cityU.npy"),
        str(tmp_path / "cityU.csv"),
        10.0,
        20.0,
        str(folder / "_dlEF8O77LTsFm2G9m7EiA.npy"),
    )
    rows = tile_points(place).reshape(-1, 4)
    assert len(rows) == 31_365
    assert np.array_equal(
        rows[::500], np.stack([some % 97 - 10, 20 - some % 89, some % 31, 4 + 0 * some], axis=1)
    )
