from __future__ import annotations

from pathlib import Path

import pytest

from geoloc.core.errors import ArtifactError, ConfigError, InputError
from geoloc.core.geodesy import map_metres_per_pixel
from geoloc.sources.datasets import registry
from geoloc.sources.datasets.rows import Plan
from tests.sources.datasets.miniatures import lines, make_cvusa

ROW = "bingmap/19/0000003.jpg,streetview/panos/0000003.jpg,streetview/annotations/0000003.png"


def plan(root: Path, split: str = "val") -> Plan:
    dataset = registry.find("cvusa")
    return dataset.plan(dataset.request(str(root), split))


def test_rows_keep_their_ids_and_take_their_places_from_the_line_of_that_number(tmp_path: Path) -> None:
    made = plan(make_cvusa(tmp_path))
    assert made.protocol == "cvusa"
    assert [tile.tile_id for tile in made.tiles] == ["0000003", "0000004", "0000005", "0000006"]
    tile, query, pair = made.tiles[0], made.queries[0], made.pairs[0]
    assert (tile.lat, tile.lon) == (33.0, -93.0)
    assert (query.lat, query.lon) == (33.0001, -93.0)
    assert tile.place_id == query.place_id == "0000003"
    assert (query.view, query.heading_deg, query.fov_deg) == ("panorama", 0.0, 360.0)
    assert tile.metres_per_pixel == map_metres_per_pixel(33.0, 19)
    assert pair.north_m == pytest.approx(11.1, abs=0.05)
    assert pair.east_m == pytest.approx(0.0, abs=1e-6)
    assert plan(tmp_path, "train").protocol is None
    assert "lists 4 tiles, published are 8,884 (-8,880)" in made.findings[0]


def test_without_coordinates_rows_have_an_identity_and_the_note_says_what_that_means(tmp_path: Path) -> None:
    made = plan(make_cvusa(tmp_path, coordinates=False))
    assert {(tile.lat, tile.lon) for tile in made.tiles} == {(None, None)}
    assert {(pair.east_m, pair.north_m) for pair in made.pairs} == {(None, None)}
    assert "all.csv' is not there, so rows have no coordinates" in made.findings[0]


@pytest.mark.parametrize("inner", ["CVUSA", "CVPR_subset"])
def test_the_folder_may_be_one_further_down(tmp_path: Path, inner: str) -> None:
    make_cvusa(tmp_path / inner)
    assert len(plan(tmp_path).tiles) == 4


def test_missing_pictures_are_refused_and_other_endings_found(tmp_path: Path) -> None:
    make_cvusa(tmp_path)
    (tmp_path / "streetview" / "panos" / "0000004.jpg").unlink()
    jpeg = tmp_path / "bingmap" / "19" / "0000005.jpg"
    jpeg.rename(jpeg.with_suffix(".png"))
    made = plan(tmp_path)
    assert [(row.key, row.reason) for row in made.refused_queries] == [("0000004", "missing_file")]
    assert made.tiles[2].picture.uri.endswith("0000005.png")


BROKEN = {
    "a missing column": ("bingmap/19/0000004.jpg,streetview/panos/0000004.jpg", "2 columns instead of 3"),
    "a shifted line": ("," + ROW.rpartition(",")[0], "column 1 is empty"),
    "a number for a name": ("4,5,6", "'4' is not the name of a picture"),
    "no such line": (ROW.replace("0000003", "0000999"), "'0000999' is no line of all.csv, which has 8"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, what: str) -> None:
    make_cvusa(tmp_path)
    broken, sentence = BROKEN[what]
    lines(tmp_path / "splits" / "val-19zl.csv", [ROW, "", broken], "\r\n")
    with pytest.raises(InputError, match=f"val-19zl.csv', line 3: {sentence}.*a line is aerial,panorama"):
        plan(tmp_path)


def test_broken_coordinates_are_named(tmp_path: Path) -> None:
    make_cvusa(tmp_path)
    uri = tmp_path / "split_locations" / "all.csv"
    lines(uri, ["1,2,3,4,5", "1,2,3"])
    with pytest.raises(InputError, match=r"all.csv', line 2: 3 columns instead of at least 4"):
        plan(tmp_path)
    lines(uri, ["-93.1,33.1,-93.1,33.1", "1,2,x,4"])
    with pytest.raises(
        InputError, match=r"all.csv', line 1: \(-93.1, 33.1\) of the aerial tile is not on Earth"
    ):
        plan(tmp_path)


def test_what_is_not_there_is_said_with_the_places_and_the_layout(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        plan(tmp_path)
    assert str(caught.value).startswith(
        f"the val split of CVUSA is missing; it was looked for at '{tmp_path}/splits/val-19zl.csv', "
        f"'{tmp_path}/CVUSA/splits/val-19zl.csv'"
    )
    make_cvusa(tmp_path)
    for path in (tmp_path / "bingmap" / "19").iterdir():
        path.unlink()
    with pytest.raises(ArtifactError, match=r"every aerial tile of CVUSA is missing.*bingmap/19"):
        plan(tmp_path)
    with pytest.raises(
        ConfigError, match=r"The request for cvusa has no split 'test'; give one of train, val"
    ):
        plan(tmp_path, "test")
    with pytest.raises(ConfigError, match=r"There is no data set 'cvus'; did you mean 'cvusa'\?"):
        registry.find("cvus")
