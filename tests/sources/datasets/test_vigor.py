from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import ArtifactError, ConfigError, InputError
from geoloc.core.geodesy import distance_m
from geoloc.sources.datasets import registry, vigor
from geoloc.sources.datasets.rows import Plan
from tests.sources.datasets.miniatures import lines, make_vigor, vigor_lines, vigor_satellites


def plan(root: Path, split: str, **chosen: object) -> Plan:
    dataset = registry.find("vigor")
    return dataset.plan(dataset.request(str(root), split, **chosen))  # type: ignore[arg-type]


@pytest.mark.parametrize("sample4geo", [False, True])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_both_folder_layouts_and_both_endings_give_the_same_rows(
    tmp_path: Path, sample4geo: bool, ending: str
) -> None:
    made = plan(make_vigor(tmp_path, sample4geo=sample4geo, tile_ending=ending), "same-area-test")
    assert made.protocol == "vigor-same-area"
    assert made.counts == {"tiles": 36, "queries": 8}
    assert made.published == {"tiles": 90_618, "queries": 52_605}
    every = [name for city in vigor.CITIES for name in vigor_satellites(city)]
    assert [tile.tile_id for tile in made.tiles] == every
    assert made.tiles[0].picture.uri.endswith(f"{every[0]}.{ending}")
    assert [query.query_id for query in made.queries] == [
        line.split()[0] for city in vigor.CITIES for line in vigor_lines(city, corrected=True)[2:]
    ]
    assert {query.heading_deg for query in made.queries} == {0.0}
    assert any(
        "the annotation lists 8 queries, published are 52,605 (-52,597)" in one for one in made.findings
    )


def test_the_gallery_is_every_tile_of_the_splits_cities_and_cross_area_splits_by_city(tmp_path: Path) -> None:
    make_vigor(tmp_path)
    train, test = plan(tmp_path, "cross-area-train"), plan(tmp_path, "cross-area-test")
    assert (train.protocol, test.protocol) == (None, "vigor-cross-area")
    assert {tile.source for tile in train.tiles} == {"vigor/NewYork", "vigor/Seattle"}
    assert {tile.source for tile in test.tiles} == {"vigor/SanFrancisco", "vigor/Chicago"}
    assert (len(test.tiles), len(test.queries)) == (18, 8)  # every panorama of the cities
    used = {pair.tile_id for pair in test.pairs}
    assert used < {tile.tile_id for tile in test.tiles}


@pytest.mark.parametrize("kind", ["original", "corrected"])
def test_offsets_are_metres_from_the_tile_and_agree_with_the_coordinates(tmp_path: Path, kind: str) -> None:
    made = plan(make_vigor(tmp_path), "same-area-train", labels=kind)
    tiles = {tile.tile_id: tile for tile in made.tiles}
    queries = {query.query_id: query for query in made.queries}
    assert len(made.pairs) == 4 * len(queries)
    for place, pair in enumerate(made.pairs):
        assert pair.relation == ("positive" if place % 4 == 0 else "semi_positive")
        tile, query = tiles[pair.tile_id], queries[pair.query_id]
        assert pair.east_m is not None
        assert pair.north_m is not None
        metres = distance_m(tile.lat, tile.lon, query.lat, query.lon)
        assert np.hypot(pair.east_m, pair.north_m) == pytest.approx(float(metres), abs=0.03)
        assert np.sign(pair.north_m) == np.sign(query.lat - tile.lat)  # type: ignore[operator]
    assert any(f"the {kind} labels' pixel offsets agree" in one for one in made.findings)


def test_the_corrected_labels_are_taken_where_they_are(tmp_path: Path) -> None:
    make_vigor(tmp_path / "both")
    make_vigor(tmp_path / "old", labels=("original",))
    assert vigor.read_labels(str(tmp_path / "both"), "Seattle", "same-area-test").corrected
    assert not vigor.read_labels(str(tmp_path / "old"), "Seattle", "same-area-test").corrected
    with pytest.raises(ArtifactError, match=r"the corrected label list of VIGOR's Chicago is missing"):
        plan(tmp_path / "old", "same-area-test", labels="corrected")


def test_cities_can_be_chosen_and_the_note_says_so(tmp_path: Path) -> None:
    made = plan(make_vigor(tmp_path), "same-area-test", cities=["Seattle"])
    assert made.published == {"tiles": 20_776}
    assert made.findings[0] == (
        "vigor same-area-test: only Seattle of Chicago, NewYork, SanFrancisco, Seattle were asked for."
    )
    with pytest.raises(ConfigError, match=r"cities names Boston; this split of VIGOR has NewYork, Seattle"):
        plan(tmp_path, "cross-area-train", cities=["Boston"])


def test_missing_pictures_are_refused_by_name_and_missing_folders_say_where_they_should_be(
    tmp_path: Path,
) -> None:
    make_vigor(tmp_path)
    name = next(iter(vigor_satellites("Seattle")))
    (tmp_path / "Seattle" / "satellite" / f"{name}.png").unlink()
    made = plan(tmp_path, "same-area-test")
    assert [(row.key, row.reason) for row in made.refused_tiles] == [(name, "missing_file")]
    assert len(made.tiles) == 35
    shutil.rmtree(tmp_path / "Chicago" / "panorama")
    with pytest.raises(ArtifactError) as caught:
        plan(tmp_path, "same-area-test")
    sentence = str(caught.value)
    assert sentence.startswith(
        "every one of the panoramas of VIGOR's Chicago is missing; it was looked for at "
    )
    assert f"'{tmp_path}/Chicago/panorama', '{tmp_path}/ground/Chicago'" in sentence
    assert "Expected layout: <root>/<City>/panorama" in sentence


GOOD = vigor_lines("Seattle", corrected=False)[0]
BROKEN = {
    "a missing column": (GOOD.rsplit(maxsplit=1)[0], "line 2: 12 fields instead of 13"),
    "a shifted line": ("x " + GOOD.split(maxsplit=1)[1], "line 2: 'x' is not the name of a panorama"),
    "two fields swapped": (
        " ".join([GOOD.split()[0], GOOD.split()[2], GOOD.split()[1], *GOOD.split()[3:]]),
        r"line 2: field 2 is '-?[\d.]+', not a tile",
    ),
    "a tile's name with spaces": (
        GOOD.replace("satellite_", "satellite _", 1),
        "line 2: field 2 is '_47.*png', not a tile",
    ),
    "a word for a number": (GOOD.rsplit(maxsplit=1)[0] + " far", "line 2: field 13 is 'far', not a number"),
    "a place off Earth": (
        GOOD.replace(",47.", ",947."),
        r"line 2: \(947.*\) of the panorama is not on Earth",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_label_line_is_named_with_file_and_line(tmp_path: Path, what: str) -> None:
    broken, sentence = BROKEN[what]
    make_vigor(tmp_path, labels=("original",))
    uri = tmp_path / "splits" / "Seattle" / "same_area_balanced_test.txt"
    lines(uri, [GOOD, broken])
    with pytest.raises(InputError, match=rf"{uri}', {sentence}.*a line is a panorama") as caught:
        plan(tmp_path, "same-area-test")
    assert caught.value.reason == "bad_annotation"


def test_an_empty_file_and_a_list_of_something_else_say_so(tmp_path: Path) -> None:
    make_vigor(tmp_path, labels=("original",))
    uri = tmp_path / "splits" / "Seattle" / "same_area_balanced_test.txt"
    lines(uri, ["", " "])
    with pytest.raises(InputError, match=f"{uri}' is empty; copy the annotation file again"):
        plan(tmp_path, "same-area-test")
    lines(uri.with_name("satellite_list.txt"), ["satellite_47.6_-122.3.png", "photo.png"])
    with pytest.raises(
        InputError, match=r"satellite_list.txt', line 2: 'photo.png' is not the name of a tile"
    ):
        plan(tmp_path, "same-area-test")


def test_windows_line_ends_a_byte_order_mark_and_spaces_in_a_name_are_fine(tmp_path: Path) -> None:
    make_vigor(tmp_path, labels=("original",), end="\r\n")
    uri = tmp_path / "splits" / "Seattle" / "same_area_balanced_test.txt"
    before = vigor.read_labels(str(tmp_path), "Seattle", "same-area-test").labels
    uri.write_bytes(b"\xef\xbb\xbf" + uri.read_bytes())
    assert vigor.read_labels(str(tmp_path), "Seattle", "same-area-test").labels == before
    uri.write_text(GOOD.replace("Seapano0", "Sea pano 0"))
    assert (
        vigor.read_labels(str(tmp_path), "Seattle", "same-area-test")
        .labels[0]
        .panorama.startswith("Sea pano 0,")
    )


def test_real_labels_of_seattle_are_read_whole_and_agree_with_the_names(
    shared_data: Path, record_property: pytest.RecordProperty
) -> None:
    root = str(shared_data / "vigor_labels")
    train = vigor.read_labels(root, "Seattle", "same-area-train")
    test = vigor.read_labels(root, "Seattle", "same-area-test")
    assert len(train.satellites) == 20_776
    # 23,749 is the number of line ends: the last line of both files has none.
    assert (len(train.labels), len(test.labels)) == (11_876, 11_875)
    assert train.corrected
    assert not {one.panorama for one in train.labels} & {one.panorama for one in test.labels}
    for labels in (train, test):
        assert all(tile in labels.satellites for label in labels.labels for tile, *_ in label.tiles)
        positives = vigor.agreement(labels)
        every = vigor.agreement(labels, 4)
        for name, value in vars(positives).items():
            record_property(name, value)
        assert positives.median_m < 0.14
        assert positives.largest_m < 0.30
        assert every.largest_m < 0.54
        assert positives.implied_metres_per_pixel == pytest.approx(0.10085, abs=0.0001)
        assert vigor.ground_resolution(47.59) == pytest.approx(positives.implied_metres_per_pixel, rel=0.002)


def test_labels_without_pictures_say_what_is_missing(shared_data: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"every one of the satellite tiles of VIGOR's Seattle is missing"
    ):
        plan(shared_data / "vigor_labels", "same-area-test", cities=["Seattle"])
