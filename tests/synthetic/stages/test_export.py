from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.synthetic.layouts.registry import plan_layout
from geoloc.synthetic.stages.export import CityExportConfig, run
from synthetic.layouts.conftest import write_all

TINY = CityExportConfig(layout="cvact", seed=5, places=10, scale=0.04, pictures_per_task=6)
MAP = CityExportConfig(layout="map25d", seed=5, places=24, scale=0.04)


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "cvact"
    result = run(TINY, str(output))
    assert (result.reused, result.made) == (False, result.pictures)
    return output


def files(root: str) -> dict[str, bytes]:
    return {file.uri.removeprefix(root): storage.read_bytes(file.uri) for file in storage.list_files(root)}


def test_all_files_of_the_plan_are_there_and_nothing_else(made: Path) -> None:
    export = plan_layout("cvact", TINY.settings())
    wanted = {p.path for p in export.pictures} | set(export.annotations)
    assert {name.lstrip("/") for name in files(str(made))} == wanted | {
        "plan.json",
        "truth.csv",
        "export.json",
    }
    record = json.loads((made / "export.json").read_bytes())
    assert record["views"] == {"aerial": len(export.pictures) // 2, "panorama": len(export.pictures) // 2}
    assert record["cities"][0]["projection"] == "EPSG:32755"
    assert len(list(csv.DictReader((made / "truth.csv").open()))) == len(export.pictures)


def test_tasks_make_the_same_bytes_as_one_process(made: Path) -> None:
    export = plan_layout("cvact", TINY.settings())
    alone: dict[str, bytes] = {}
    write_all(export, export.pictures, alone.__setitem__)
    found = files(str(made))
    assert all(found[f"/{path}"] == data for path, data in alone.items())


def test_a_second_run_makes_nothing(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    result = run(TINY, str(made))
    assert (result.reused, result.made) == (True, 0)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_are_refused_until_overwritten(made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match="holds an export made from other inputs or settings; pass --overwrite"
    ):
        run(TINY.model_copy(update={"seed": 6}), str(made))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="already holds other files; choose an empty output"):
        run(TINY, str(tmp_path))


@pytest.mark.usefixtures("ray_local")
def test_an_interrupted_run_on_s3_ends_with_the_same_bytes(made: Path, s3_uri: str) -> None:
    whole = files(str(made))
    kept = {
        name: data for k, (name, data) in enumerate(sorted(whole.items())) if k % 2 and name != "/export.json"
    }
    for name, data in {**kept, "/plan.json": whole["/plan.json"]}.items():
        storage.write_bytes(s3_uri + name, data)
    result = run(TINY.model_copy(update={"pictures_per_task": 3}), s3_uri)
    assert 0 < result.made < result.pictures
    again = files(s3_uri)
    record, first = (json.loads(found.pop("/export.json")) for found in (again, whole))
    assert again == whole
    assert record | {"config": first["config"]} == first


@pytest.mark.usefixtures("ray_local")
def test_point_clouds_are_made_once(tmp_path: Path) -> None:
    output = tmp_path / "map"
    result = run(MAP, str(output))
    cloud = output / "manhattan" / "manhattanU.npy"
    assert cloud.stat().st_size > 10_000
    assert len(list((output / "hudsonriver5kU_idx").iterdir())) == 2
    before = cloud.stat().st_mtime_ns
    (output / "export.json").unlink()
    lost = next((output / "jpegs_manhattan_2019").iterdir())
    lost.unlink()
    assert run(MAP, str(output)).made == 1
    assert lost.exists()
    assert cloud.stat().st_mtime_ns == before
    assert not list(output.rglob("*.pickle"))
    assert result.pictures == sum(result.views.values())
