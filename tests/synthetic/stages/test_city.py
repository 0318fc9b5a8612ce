from __future__ import annotations

import json
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.synthetic.stages.city import CityConfig, run
from geoloc.synthetic.world.districts import plan_districts
from geoloc.synthetic.world.export import render_photo
from geoloc.synthetic.world.raster import City

TINY = CityConfig(
    seed=3, train_photos=6, validation_photos=3, test_photos=4, distractors=6, anywhere_photos=3, sheet_m=256.0,
    sheets_per_task=1, routes=1, route_photos=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("city") / "out"
    result = run(TINY, str(output))
    assert not result.reused
    assert (result.sheets, result.photos) == (3, 20)
    return output


def files(root: str) -> dict[str, bytes]:
    return {file.uri.removeprefix(root): storage.read_bytes(file.uri) for file in storage.list_files(root)}


def test_all_files_are_there_and_the_record_tells_of_them(made: Path) -> None:
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    tables = {
        f"{split}/{name}.csv" for split in ("train", "validation", "test") for name in ("photos", "centres")
    }
    tables |= {"test/distractors.csv", "test/anywhere/photos.csv", "city.json", "plan.json"}
    tables |= {
        f"{split}/routes/{name}.csv"
        for split in ("validation", "test")
        for name in ("photos", "truth", "streets")
    }
    assert tables <= names
    assert {f"{split}/imagery/sheet_00_00.tif" for split in ("train", "validation", "test")} <= names
    assert sum(name.endswith(".jpg") for name in names) == 20
    record = json.loads((made / "city.json").read_bytes())
    assert record["config"]["seed"] == 3
    assert record["splits"]["test"]["distractors"] == 6
    assert record["splits"]["train"]["width_m"] == 256
    assert record["splits"]["test"]["route_photos"] == 2


def test_a_photo_is_what_the_library_renders(made: Path) -> None:
    city = City(TINY.seed)
    photo = plan_districts(city, TINY.districts())[2].anywhere[0]
    assert (made / photo.folder / photo.name).read_bytes() == render_photo(city, photo, TINY.camera())


def test_a_city_without_routes_is_the_one_of_before() -> None:
    plain = TINY.model_copy(update={"routes": 0})
    assert plain.fingerprint() == plain.model_copy(update={"route_photos": 9}).fingerprint()
    assert plain.fingerprint() != TINY.fingerprint()
    assert TINY.fingerprint() != TINY.model_copy(update={"route_photos": 9}).fingerprint()


def test_a_second_run_makes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert run(TINY, str(made)).reused
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_are_refused_until_overwritten(made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match="holds a city made from other inputs or settings; pass --overwrite"
    ):
        run(TINY.model_copy(update={"seed": 4}), str(made))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="already holds other files; choose an empty output"):
        run(TINY, str(tmp_path))


@pytest.mark.usefixtures("ray_local")
def test_an_interrupted_run_on_s3_ends_with_the_same_bytes(made: Path, s3_uri: str) -> None:
    whole = files(str(made))
    kept = {
        name: data for k, (name, data) in enumerate(sorted(whole.items())) if k % 2 and name != "/city.json"
    }
    for name, data in {**kept, "/plan.json": whole["/plan.json"]}.items():
        storage.write_bytes(s3_uri + name, data)
    result = run(TINY.model_copy(update={"sheets_per_task": 7}), s3_uri)
    assert not result.reused
    again = files(s3_uri)
    record = json.loads(again.pop("/city.json"))
    assert record.pop("config")["sheets_per_task"] == 7
    assert again == {name: data for name, data in whole.items() if name != "/city.json"}
    assert record == {k: v for k, v in json.loads(whole["/city.json"]).items() if k != "config"}
