"""A user's own imagery to an index in one line: real orthophotos in a national coordinate system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geoloc import Localizer, cli
from geoloc.core import part_table

from .conftest import Geoloc, demo_words

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("parts_here_in_module"),
]  # waits for the whole way


@pytest.fixture(scope="module")
def words(
    demo: Any,
    demo_folder: str,
    parts_here_in_module: None,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """The line that a user types."""
    output = str(tmp_path_factory.mktemp("imagery") / "index")
    sheets = str(shared_data / "ortho_estonia" / "patch_0[1-3]_20cm.tif")
    model = f"{demo_folder}/model"
    return [
        "index",
        "--imagery",
        sheets,
        "--model",
        model,
        "--stride-m",
        "40",
        "--keep-tiles",
        "--output",
        output,
        "--json",
    ]


@pytest.fixture(scope="module")
def built(words: list[str], geoloc: Geoloc) -> Any:
    """The index of three real sheets."""
    return geoloc(*words)


def test_tiles_lie_in_estonia(built: Any) -> None:
    tiles = part_table.read(f"{built['index_uri']}-tables/tiles", columns=["lat", "lon", "metres_per_pixel"])
    assert tiles.num_rows == built["tiles"] > 3 * 16
    for row in tiles.to_pylist():
        assert 57.5 < row["lat"] < 59.9
        assert 21.5 < row["lon"] < 28.5
        assert row["metres_per_pixel"] == pytest.approx(0.8)  # as the model wants it, not the imagery's 0.2


def test_run_again_everything_is_reused(built: Any, words: list[str], geoloc: Geoloc) -> None:
    assert geoloc(*words) == built | {"reused": True}


def test_a_tile_posted_as_a_drone_photo_finds_itself(built: Any) -> None:
    """Even weights of a few steps find the very pixels that they encoded, through the aerial branch."""
    tiles = part_table.read(f"{built['index_uri']}-tables/tiles", columns=["tile_id", "image", "lat", "lon"])
    localizer = Localizer.open(built["index_uri"])
    for row in tiles.slice(0, 3).to_pylist():
        fix = localizer.localize(row["image"], view="drone", heading_deg=0.0, extent_m=40.0)
        assert row["tile_id"] in [match.tile_id for match in fix.matches[:3]]


def test_imagery_that_is_not_there_is_one_sentence(
    demo_folder: str, demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", "--imagery", str(tmp_path / "*.tif"), "--model", f"{demo_folder}/model"]
    assert cli.main([*words, "--output", str(tmp_path / "index")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "*.tif' matches no file" in err
    assert err.count("\n") == 1


def test_a_model_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", "--imagery", "x.tif", "--model", str(tmp_path), "--output", str(tmp_path / "index")]
    assert cli.main(words) == 2
    assert "There is no finished model" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_locates_drone_photos_in_own_imagery(
    demo: Any, demo_folder: str, geoloc: Geoloc, shared_data: Path
) -> None:
    """Sea and land apart: photos of ground without texture are measured for themselves."""
    sheets = [
        str(shared_data / "ortho_estonia" / name) for name in ("patch_01_20cm.tif", "sheet_14_20cm.tif")
    ]
    words = ["--imagery", *sheets, "--drone-photos", "40"]
    imagery = geoloc(*demo_words(demo_folder), *words, "--json")["imagery"]
    assert imagery["tiles"] > 1000
    counts = {name: one["queries"] for name, one in imagery["evaluations"].items()}
    assert sum(counts.values()) == 40
    assert set(counts) == {"textured", "textureless"}
    assert {name: len(posts) for name, posts in imagery["posts"].items()} == {
        name: min(6, count) for name, count in counts.items()
    }
    # The photos' headings are kept back, so every candidate was searched; the truth is known by position.
    for name in counts:
        table = part_table.read(
            f"{demo_folder}/imagery/{name}/tables/queries", columns=["heading_deg", "view"]
        )
        assert table["heading_deg"].null_count == table.num_rows
        assert set(table["view"].to_pylist()) == {"drone"}
    page = Path(demo_folder, "report.html").read_text()
    assert 'href="imagery/evaluation/textureless/report.html"' in page
