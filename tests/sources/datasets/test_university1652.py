from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from geoloc.core.errors import ArtifactError, ConfigError, InputError
from geoloc.sources.datasets import registry
from geoloc.sources.datasets.rows import Plan
from tests.sources.datasets.miniatures import make_university, picture


def plan(root: Path, split: str) -> Plan:
    dataset = registry.find("university1652")
    return dataset.plan(dataset.request(str(root), split))


@pytest.mark.parametrize(
    ("split", "tiles", "queries", "view", "pairs"),
    [
        ("train", 1, 5, "drone", 5),
        ("drone-to-satellite", 3, 6, "drone", 6),
        ("satellite-to-drone", 2, 9, "drone", 6),
        ("ground-to-satellite", 3, 4, "street", 4),
        ("satellite-to-ground", 2, 6, "street", 4),
        ("drone-4k-to-satellite", 3, 1, "drone", 1),
        ("drone-to-satellite-160k", 5, 6, "drone", 6),
        ("challenge-160k", 2, 1, "drone", 0),
    ],
)
def test_every_split_has_its_views_and_pairs(
    tmp_path: Path, split: str, tiles: int, queries: int, view: str, pairs: int
) -> None:
    made = plan(make_university(tmp_path), split)
    assert (len(made.tiles), len(made.queries), len(made.pairs)) == (tiles, queries, pairs)
    assert made.queries[0].view == view
    places = {tile.tile_id: tile.place_id for tile in made.tiles}
    of_query = {query.query_id: query.place_id for query in made.queries}
    assert all(places[pair.tile_id] == of_query[pair.query_id] is not None for pair in made.pairs)
    assert len(of_query) == queries
    assert any("no scale is published" in one for one in made.findings)


def test_protocols_are_named_by_their_direction(tmp_path: Path) -> None:
    make_university(tmp_path)
    assert plan(tmp_path, "drone-to-satellite").protocol == "university1652-drone-to-satellite"
    assert plan(tmp_path, "satellite-to-drone").protocol == "university1652-satellite-to-drone"
    assert plan(tmp_path, "drone-4k-to-satellite").protocol == "university1652-drone-to-satellite"
    assert plan(tmp_path, "drone-to-satellite-160k").protocol == "university1652-drone-to-satellite"
    assert plan(tmp_path, "train").protocol is None
    assert plan(tmp_path, "challenge-160k").protocol is None


def test_labels_are_four_digits_junk_is_minus_one_and_distractors_have_none(tmp_path: Path) -> None:
    make_university(tmp_path)
    picture(tmp_path / "test" / "query_drone" / "-1" / "image-01.jpeg", 64, 64, 5)
    picture(tmp_path / "test" / "gallery_satellite" / "-1" / "junk.jpg", 64, 64, 6)
    made = plan(tmp_path, "drone-to-satellite-160k")
    assert [tile.place_id for tile in made.tiles] == ["-1", "0001", "0002", "0003", None, None]
    assert made.queries[0].place_id == "-1"
    assert made.queries[0].query_id == "query_drone/-1/image-01.jpeg"
    assert not any(pair.query_id == made.queries[0].query_id for pair in made.pairs)
    assert any("2 distractors have no label" in one for one in made.findings)
    reverse = plan(tmp_path, "satellite-to-drone")
    assert any("1 of 3 buildings of the queries have no tile" in one for one in reverse.findings)


@pytest.mark.parametrize("inner", ["University-1652", "University-Release"])
def test_the_folder_may_be_one_further_down(tmp_path: Path, inner: str) -> None:
    make_university(tmp_path / inner)
    assert len(plan(tmp_path, "drone-to-satellite").tiles) == 3


def test_what_is_not_there_or_in_the_wrong_place_is_said(tmp_path: Path) -> None:
    make_university(tmp_path)
    shutil.rmtree(tmp_path / "train" / "google")
    assert len(plan(tmp_path, "train").queries) == 5
    shutil.rmtree(tmp_path / "test" / "query_drone")
    with pytest.raises(ArtifactError) as caught:
        plan(tmp_path, "drone-to-satellite")
    assert str(caught.value).startswith(
        f"the folder test/query_drone of University-1652 is missing; it was looked for at '{tmp_path}/test/query_drone'"
    )
    (tmp_path / "test" / "query_drone" / "0001").mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match=r"every picture of University-1652's test/query_drone is missing"
    ):
        plan(tmp_path, "drone-to-satellite")
    picture(tmp_path / "test" / "query_drone" / "loose.jpeg", 64, 64, 5)
    with pytest.raises(InputError, match=r"query_drone/loose.jpeg' is not in a folder of a building"):
        plan(tmp_path, "drone-to-satellite")
    with pytest.raises(ConfigError, match=r"has no split 'test'; give one of train, drone-to-satellite"):
        plan(tmp_path, "test")
