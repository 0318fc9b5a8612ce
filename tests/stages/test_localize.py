"""The stage that locates a batch of photos."""

import json
import shutil

import geopandas
import pytest
from small_index import encoded
from small_ingest import part_path

from geoloc.core import part_table, storage
from geoloc.core.errors import ArtifactError, InputError, QueryError, TooManyBadRows
from geoloc.localization.localizer import Localizer
from geoloc.stages import localize
from geoloc.stages.localize import LocalizeConfig, LocalizeInputs, run
from geoloc.stages.localize_inputs import list_photos

CONFIG = LocalizeConfig(view="panorama", heading_deg=0.0, k=3, uncalibrated=True)


@pytest.fixture
def photos(tmp_path, small_index):
    """A folder of twelve panoramas and one broken file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        path = folder / ("more" if number % 2 else ".") / f"{number:02d}.png"
        path.write_bytes(encoded(small_index.panoramas[number]))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def test_a_folder_becomes_fixes_as_the_library_gives_them(ray_local, photos, small_index, tmp_path):
    output = tmp_path / "out"
    result = run(CONFIG, LocalizeInputs(index=small_index.index, photos=str(photos)), str(output))
    assert (result.photos, result.located) == (12, 12)
    assert result.quarantined == {"undecodable": 1}
    rows = part_table.read(str(output / "fixes"), kind="fixes").to_pylist()
    localizer = Localizer.open(small_index.index, device="cpu")
    for row in rows:
        number = int(row["query_id"].rsplit("/", 1)[-1][:2])
        fix = localizer.localize(
            small_index.panoramas[number], view="panorama", heading_deg=0.0, k=3, uncalibrated=True
        )
        assert [match["tile_id"] for match in row["matches"]] == [match.tile_id for match in fix.matches]
        assert (row["lat"], row["lon"]) == pytest.approx((fix.lat, fix.lon), abs=1e-6)
    assert {row["query_id"] for row in rows} >= {"00.png", "more/01.png"}
    collection = json.loads((output / "fixes.geojson").read_text())
    assert len(collection["features"]) == 12
    first = collection["features"][0]
    assert first["geometry"]["coordinates"] == [rows[0]["lon"], rows[0]["lat"]]
    assert first["properties"]["best_tile"] == rows[0]["matches"][0]["tile_id"]
    places = json.loads((output / "hypotheses.geojson").read_text())["features"]
    mine = [place for place in places if place["properties"]["query_id"] == rows[0]["query_id"]]
    assert [place["properties"]["rank"] for place in mine] == list(range(1, len(mine) + 1))
    assert mine[0]["geometry"]["coordinates"] == [rows[0]["lon"], rows[0]["lat"]]
    assert sum(place["properties"]["weight"] for place in mine) <= 1.0 + 1e-6
    frame = geopandas.read_parquet(part_path(output / "fixes", 0))
    assert frame.geometry.iloc[0].y == pytest.approx(rows[0]["lat"])
    assert run(CONFIG, LocalizeInputs(index=small_index.index, photos=str(photos)), str(output)).reused
    moved = shutil.copytree(photos, tmp_path / "moved")
    inputs = LocalizeInputs(index=small_index.index, photos=str(moved))
    assert run(CONFIG, inputs, str(output)).reused, "moved photos are the same photos"
    shutil.copyfile(moved / "02.png", moved / "00.png")
    with pytest.raises(ArtifactError, match="other inputs or settings"):
        run(CONFIG, inputs, str(output))


@pytest.mark.usefixtures("parts_here")
def test_a_killed_run_makes_only_what_is_missing(ray_local, photos, small_index, tmp_path, monkeypatch):
    monkeypatch.setattr(localize, "_UNIT_PHOTOS", 5)
    inputs = LocalizeInputs(index=small_index.index, photos=str(photos))
    whole, halfway = tmp_path / "whole", tmp_path / "halfway"
    run(CONFIG, inputs, str(whole))
    shutil.copytree(whole, halfway)
    first, second = (part_path(halfway / "fixes", index) for index in range(2))
    for path in (halfway / "fixes" / "table.json", second, halfway / "fixes.geojson"):
        path.unlink()
    kept = first.stat().st_mtime_ns
    assert not run(CONFIG, inputs, str(halfway)).reused
    assert first.stat().st_mtime_ns == kept
    for file in storage.list_files(str(whole)):
        other = file.uri.replace(str(whole), str(halfway))
        assert storage.read_bytes(other) == storage.read_bytes(file.uri), file.name
    with pytest.raises(ArtifactError, match="other inputs or settings"):
        run(CONFIG.model_copy(update={"k": 5}), inputs, str(halfway))


@pytest.mark.usefixtures("parts_here")
def test_a_list_says_how_each_photo_was_taken(ray_local, photos, small_index, tmp_path):
    (photos / "photos.csv").write_text(
        "id,photo,heading_deg,heading_error_deg,view\n"
        "known,00.png,0,,panorama\n"
        "unknown,02.png,,,panorama\n"
        "compass,04.png,10,15,panorama\n"
        "reversed,06.png,180,15,panorama\n"
        "lost,nowhere.png,0,,panorama\n"
        "known,04.png,0,,panorama\n"
        "odd,04.png,north,,panorama\n"
        "nowhere,04.png,,15,panorama\n"
    )
    config = LocalizeConfig(max_bad_share=0.9)
    result = run(config, LocalizeInputs(index=small_index.index, photos=str(photos)), str(tmp_path / "out"))
    assert result.photos == 4
    assert result.quarantined == {"bad_value": 1, "duplicate_id": 1, "missing_file": 1, "bad_heading": 1}
    rows = {row["query_id"]: row for row in part_table.read(str(tmp_path / "out" / "fixes")).to_pylist()}
    assert rows["known"]["matches"][0]["tile_id"] == small_index.tile_ids[0]
    assert rows["unknown"]["matches"][0]["tile_id"] == small_index.tile_ids[2]
    assert rows["compass"]["matches"][0]["tile_id"] == small_index.tile_ids[4]
    assert abs((rows["compass"]["heading_deg"] + 180) % 360 - 180) < 6
    assert abs(rows["reversed"]["heading_deg"] - 180) < 27


@pytest.mark.usefixtures("parts_here")
def test_too_many_bad_photos_stop_the_stage(ray_local, photos, small_index, tmp_path):
    config = CONFIG.model_copy(update={"max_bad_share": 0.01})
    with pytest.raises(TooManyBadRows, match="1 of 13 photos are bad"):
        run(config, LocalizeInputs(index=small_index.index, photos=str(photos)), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "fixes" / "table.json").exists()


@pytest.mark.usefixtures("parts_here")
def test_what_was_not_located_has_its_reason_and_no_geometry(ray_local, photos, small_index, tmp_path):
    config = CONFIG.model_copy(update={"near_lat": 0.0, "near_lon": 0.0, "within_m": 10.0})
    result = run(config, LocalizeInputs(index=small_index.index, photos=str(photos)), str(tmp_path / "out"))
    assert result.located == 0
    assert result.not_located == {"no_tile_in_region": 12}
    features = json.loads((tmp_path / "out" / "fixes.geojson").read_text())["features"]
    assert {feature["geometry"] for feature in features} == {None}


def test_mistakes_are_said_before_anything_is_written(small_index, tmp_path):
    output = str(tmp_path / "out")
    with pytest.raises(ArtifactError, match="does not exist"):
        run(CONFIG, LocalizeInputs(index=small_index.index, photos=str(tmp_path / "nothing")), output)
    with pytest.raises(ArtifactError, match="no finished index"):
        run(CONFIG, LocalizeInputs(index=str(tmp_path / "no"), photos=str(tmp_path)), output)
    with pytest.raises(InputError, match="near_lat and near_lon belong together"):
        run(
            LocalizeConfig(near_lat=1.0),
            LocalizeInputs(index=small_index.index, photos=str(tmp_path)),
            output,
        )
    with pytest.raises(QueryError, match="centre and a radius"):
        run(
            LocalizeConfig(within_m=1.0),
            LocalizeInputs(index=small_index.index, photos=str(tmp_path)),
            output,
        )
    assert not (tmp_path / "out").exists()


def test_single_files_and_globs_are_listed(photos):
    assert [entry.query_id for entry in list_photos(str(photos / "00.png"))] == ["00.png"]
    assert len(list_photos(str(photos / "*.png"))) >= 6
    (photos / "list.csv").write_text("name\nx\n")
    with pytest.raises(InputError, match="lacks the column 'photo'"):
        list_photos(str(photos / "list.csv"))


@pytest.mark.usefixtures("parts_here")
def test_drone_photos_with_their_flight_in_a_list(ray_local, small_index, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(small_index.tiles[number]))
    altitude_m = 25.6 / 0.5  # 51.2 m of ground at a half angle whose tangent is a half
    fov_deg = 53.13010235415598
    lines = ["photo,id,altitude_m,pitch_deg,yaw_deg,fov_deg"]
    lines += [f"{number}.png,p{number},{altitude_m},90,0,{fov_deg}" for number in range(2)]
    lines += [f"2.png,p2,{altitude_m},3,0,{fov_deg}"]
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    config = LocalizeConfig(view="drone", k=3)
    output = tmp_path / "out"
    result = run(
        config, LocalizeInputs(index=small_index.index, photos=str(tmp_path / "photos.csv")), str(output)
    )
    assert result.quarantined == {"bad_pitch": 1}
    for row in part_table.read(str(output / "fixes"), kind="fixes").to_pylist():
        assert row["matches"][0]["tile_id"] == small_index.tile_ids[int(row["query_id"][1:])]
        assert row["assumed"] == []
        assert row["heading_deg"] == 0.0
