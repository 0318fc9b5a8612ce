from __future__ import annotations

import json
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, InputError
from geoloc.sources.centres import read_centres
from geoloc.sources.folder import ViewDefaults, load_photos, positions_uri, read_photos, unused_headings
from geoloc.stages.localize_inputs import list_photos

DEFAULTS = ViewDefaults("panorama", 360.0)


def photo_file(path: Path, width: int = 128, height: int = 64, **options: object) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(width)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path, **options)
    return path.read_bytes()


def read(tmp_path: Path, text: str, name: str = "photos.csv", encoding: str = "utf-8") -> tuple[list, list]:
    (tmp_path / name).write_bytes(text.encode(encoding))
    photos, refused = read_photos(str(tmp_path / name), DEFAULTS)
    return list(photos), list(refused)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_usual_csv_reads_the_same(tmp_path: Path, delimiter: str, ends: str, encoding: str) -> None:
    lines = [
        ["Photo", "lat", "LON ", "heading_deg", "step"],
        ["b/ä 1.jpg", "59.5", "-24.25", "-90", "3"],
        [],
        ["c.jpg", "1", "2"],
    ]
    photos, refused = read(
        tmp_path, ends.join(delimiter.join(line) for line in lines) + ends, encoding=encoding
    )
    assert not refused
    assert [(p.query_id, p.lat, p.lon, p.heading_deg, p.fov_deg, p.step) for p in photos] == [
        ("b/ä 1.jpg", 59.5, -24.25, 270.0, 360.0, 3),
        ("c.jpg", 1.0, 2.0, None, 360.0, None),
    ]
    assert photos[0].uri == str(tmp_path / "b" / "ä 1.jpg")


def test_what_spreadsheets_and_people_leave_in_a_table(tmp_path: Path) -> None:
    for text, encoding in (
        ('photo, lat, lon,,\n "a, b.jpg", 1, 2,,\n', "utf-8"),
        ('sep=;\nphoto;lat;lon\n"a, b.jpg";1;2\n', "utf-8"),
        ('photo\tlat\tlng\n"a, b.jpg"\t1\t2\t\t\n', "utf-16"),
    ):
        photos, refused = read(tmp_path, text, encoding=encoding)
        assert not refused
        assert [(photo.query_id, photo.lat, photo.lon) for photo in photos] == [("a, b.jpg", 1.0, 2.0)]


def test_a_row_of_more_cells_than_columns_is_refused(tmp_path: Path) -> None:
    photos, refused = read(tmp_path, "photo,lat,lon\na.jpg,45,12,7,65\nb.jpg,1,2,\nc.jpg,4_5,2\n")
    assert [photo.query_id for photo in photos] == ["b.jpg"]
    assert [(row.key, row.reason) for row in refused] == [
        ("a.jpg", "too_many_cells"),
        ("c.jpg", "bad_value"),
    ]
    assert "row 1 has 5 cells, but the header 3 columns; decimals take a point" in refused[0].detail
    (tmp_path / "c.csv").write_text("tile_id,lat,lon\na,45,12,7,65\n")
    assert [row.reason for row in read_centres(str(tmp_path / "c.csv")).refused] == ["too_many_cells"]


def test_columns_that_are_not_used_are_told_with_what_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, "photo,lat,lon,heading,FOV,compass angle,note\na.jpg,1,2,3,4,5,6\n")
    told = capsys.readouterr().err
    assert "heading (rename it to heading_deg?), fov (rename it to fov_deg?)" in told
    assert "compass angle (rename it to heading_deg?), note\n" in told
    read(tmp_path, "photo,lat,lon,heading_deg\na.jpg,1,2,3\n")
    assert capsys.readouterr().err == ""


def test_geojson_of_another_system_is_refused(tmp_path: Path) -> None:
    document = {"type": "FeatureCollection", "features": [], "crs": {"properties": {"name": "EPSG:3857"}}}
    with pytest.raises(InputError, match="has coordinates in 'EPSG:3857'; export it in WGS84 degrees"):
        read(tmp_path, json.dumps(document), "q.geojson")


def test_geojson_gives_the_same_rows(tmp_path: Path) -> None:
    feature = {
        "type": "Feature",
        "id": 7,
        "geometry": {"type": "Point", "coordinates": [24.5, 59.25, 12.0]},
        "properties": {"photo": "a.jpg", "view": "street", "fov_deg": 90, "place_id": None},
    }
    lost = {"type": "Feature", "geometry": None, "properties": {"photo": "b.jpg"}}
    document = {"type": "FeatureCollection", "features": [feature, lost]}
    photos, refused = read(tmp_path, json.dumps(document), "p.geojson")
    (photo,) = photos
    assert (photo.query_id, photo.lat, photo.lon, photo.view, photo.fov_deg) == (
        "7",
        59.25,
        24.5,
        "street",
        90.0,
    )
    assert [row.reason for row in refused] == ["missing_coordinate"]
    with pytest.raises(InputError, match="is not a GeoJSON FeatureCollection of points"):
        read(tmp_path, '{"type": "Point"}', "q.geojson")


def test_a_geometry_that_is_no_point_costs_its_row_alone(tmp_path: Path) -> None:
    geometries = [
        {"type": "MultiPoint", "coordinates": [[24.5, 59.25]]},
        {"type": "MultiPoint", "coordinates": [[24.5, 59.25], [24.6, 59.25]]},
        {"type": "LineString", "coordinates": [[24.5, 59.25], [24.6, 59.25]]},
        {"type": "Point", "coordinates": [24.5, 59.25]},
    ]
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {"photo": f"{number}.jpg"}}
        for number, geometry in enumerate(geometries)
    ]
    document = {"type": "FeatureCollection", "features": features}
    photos, refused = read(tmp_path, json.dumps(document), "p.geojson")
    assert [(photo.query_id, photo.lat, photo.lon) for photo in photos] == [
        ("0.jpg", 59.25, 24.5),
        ("3.jpg", 59.25, 24.5),
    ]
    assert [(row.key, row.reason) for row in refused] == [("1.jpg", "bad_value"), ("2.jpg", "bad_value")]
    assert "lat is 'MultiPoint', not a number" in refused[0].detail
    broken = features[3] | {"geometry": {"type": "Point", "coordinates": [24.5]}}
    with pytest.raises(InputError, match="is not a GeoJSON FeatureCollection of points"):
        read(tmp_path, json.dumps(document | {"features": [broken]}), "p.geojson")


@pytest.mark.parametrize("table", ["NFC", "NFD"])
@pytest.mark.parametrize("place", ["", "photos/"])
def test_names_with_accents_are_found_in_both_spellings(tmp_path: Path, table: str, place: str) -> None:
    """A table made on a Mac beside files from a camera, and the other way round."""
    other = "NFD" if table == "NFC" else "NFC"
    (tmp_path / "photos").mkdir()
    named = normalize(table, "Tänav 5é.jpg")  # type: ignore[arg-type]
    file = tmp_path / place / normalize(other, named)  # type: ignore[arg-type]
    file.write_bytes(b"12345")
    photos, refused = read(tmp_path, f"photo,lat,lon\n{named},1,2\n")
    assert refused == []
    assert [(photo.uri, photo.size_bytes) for photo in photos] == [(str(file), 5)]
    (entry,) = list_photos(str(tmp_path / "photos.csv"))
    assert (entry.uri, entry.problem) == (str(file), None)
    (tmp_path / place / named).write_bytes(b"1")  # where both are there, the one that is written
    assert list_photos(str(tmp_path / "photos.csv"))[0].uri == str(tmp_path / place / named)


@pytest.mark.parametrize("folder_form", ["NFC", "NFD"])
@pytest.mark.parametrize("file_form", ["NFC", "NFD"])
def test_the_folder_of_the_table_keeps_its_own_spelling(
    tmp_path: Path, folder_form: str, file_form: str
) -> None:
    folder = tmp_path / normalize(folder_form, "José")  # type: ignore[arg-type]
    folder.mkdir()
    file = folder / normalize(file_form, "é.jpg")  # type: ignore[arg-type]
    file.write_bytes(b"12345")
    named = normalize("NFD" if file_form == "NFC" else "NFC", file.name)
    photos, refused = read(folder, f"photo,lat,lon\n{named},1,2\n")
    assert refused == []
    assert [(photo.uri, photo.size_bytes) for photo in photos] == [(str(file), 5)]


MIXED = normalize("NFC", "Tänav ") + normalize("NFD", "5é.jpg")


@pytest.mark.parametrize("table", ["NFC", "NFD"])
@pytest.mark.parametrize("place", ["", "photos/"])
@pytest.mark.parametrize(
    "file",
    [
        MIXED,
        normalize("NFD", "Õhtu/") + normalize("NFC", "é.jpg"),
        normalize("NFC", "Õhtu/") + normalize("NFD", "é.jpg"),
        "plain/" + normalize("NFD", "Õhtu/") + MIXED,
    ],
    ids=["in a name", "folder NFD", "folder NFC", "both"],
)
def test_names_that_mix_both_spellings_are_found(tmp_path: Path, table: str, place: str, file: str) -> None:
    there = tmp_path / place / file
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(b"12345")
    named = normalize(table, file)  # type: ignore[arg-type]
    assert named != file
    photos, refused = read(tmp_path, f"photo,lat,lon\n{named},1,2\n")
    assert refused == []
    assert [(photo.uri, photo.size_bytes) for photo in photos] == [(str(there), 5)]
    (entry,) = list_photos(str(tmp_path / "photos.csv"))
    assert (entry.uri, entry.problem) == (str(there), None)


def test_a_folder_is_listed_once_and_other_letters_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    names = storage.entry_names
    monkeypatch.setattr(storage, "entry_names", lambda uri: listed.append(uri) or names(uri))
    (tmp_path / MIXED).write_bytes(b"12345")
    photos, _ = read(tmp_path, "photo,lat,lon\n" + "".join(f"Tanav 5é{n}.jpg,1,2\n" for n in range(3)))
    assert [photo.size_bytes for photo in photos] == [None] * 3
    assert sorted(listed) == [f"{tmp_path}/", f"{tmp_path}/photos"]


@pytest.mark.parametrize(("there", "named"), [("NFC", "NFC"), ("NFD", "NFD"), ("NFC", "NFD"), ("NFD", "NFC")])
def test_no_folder_is_listed_for_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, named: str
) -> None:
    def listed(uri: str) -> list[str]:
        raise AssertionError(f"{uri} was looked at")

    monkeypatch.setattr(storage, "entry_names", listed)
    monkeypatch.setattr(storage, "is_directory", listed)
    (tmp_path / normalize(there, "é.jpg")).write_bytes(b"12345")  # type: ignore[arg-type]
    photos, refused = read(tmp_path, f"photo,lat,lon\n{normalize(named, 'é.jpg')},1,2\n")  # type: ignore[arg-type]
    assert refused == []
    assert [photo.size_bytes for photo in photos] == [5]


def test_bad_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    text = """id,photo,lat,lon,view,fov_deg,step,place_id
a,a.jpg,1,2,,,,
a,b.jpg,1,2,,,,
c,c.jpg,,2,,,,
d,d.jpg,95,2,,,,
e,e.jpg,1,181,,,,
f,f.jpg,one,2,,,,
g,g.jpg,1,2,aerial,,,
h,h.jpg,1,2,,400,,
i,i.jpg,1,2,,,1.5,
j,,1,2,,,,
k,k.jpg,,,,,,p7
l,l.jpg,nan,2,,,,
m,m.jpg,48.1S,2,,,,
n,n.jpg,48°8'1,2,,,,
"""
    photos, refused = read(tmp_path, text)
    assert [photo.query_id for photo in photos] == ["a", "k"]
    assert photos[1].place_id == "p7"
    assert [(row.key, row.reason) for row in refused] == [
        ("a", "duplicate_id"),
        ("c", "missing_coordinate"),
        ("d", "latitude_out_of_range"),
        ("e", "longitude_out_of_range"),
        ("f", "bad_value"),
        ("g", "bad_value"),
        ("h", "bad_value"),
        ("i", "bad_value"),
        ("j", "missing_file"),
        ("l", "bad_value"),
        ("m", "bad_value"),
        ("n", "bad_value"),
    ]
    assert all("write decimal degrees" in row.detail for row in refused[-2:])
    assert refused[2].detail == "lat is 95, outside -90 to 90 degrees; are lat and lon swapped?"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("photo|lat|lon\na|1|2\n", "or 'filename' or 'image', 'lat' or 'latitude', 'lon' or"),
        ("name,lat,lon\na,1,2\n", "it has 'name', 'lat', 'lon'. Rename or add it."),
        ("photo,lat,lon\n", "holds no rows below its header"),
        ("", "is empty; the first line names the columns"),
        ("photo,lat,lat,lon\n", "has the column 'lat' twice"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert sentence in str(caught.value)


def test_where_positions_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; give a CSV or GeoJSON"):
        positions_uri(str(tmp_path / "none.csv"))
    with pytest.raises(ArtifactError, match=r"holds neither photos.csv nor photos.geojson"):
        positions_uri(str(tmp_path))
    (tmp_path / "photos.geojson").write_text("{}")
    assert positions_uri(str(tmp_path)) == str(tmp_path / "photos.geojson")


def test_photos_are_kept_as_they_came_and_bad_ones_refused(tmp_path: Path) -> None:
    good = photo_file(tmp_path / "photos" / "good.jpg", quality=80)
    (tmp_path / "truncated.jpg").write_bytes(photo_file(tmp_path / "t.jpg")[:-900])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"hello, not a picture at all")
    photo_file(tmp_path / "small.png", 40, 20)
    photo_file(tmp_path / "square.png", 64, 64)
    names = ["good.jpg", "truncated.jpg", "empty.jpg", "text.jpg", "small.png", "square.png", "absent.jpg"]
    photos, refused = read(tmp_path, "photo,lat,lon\n" + "".join(f"{name},1,2\n" for name in names))
    assert not refused
    rows, bad, _ = load_photos(photos)
    assert rows["image"].to_pylist() == [good]
    assert rows["query_id"].to_pylist() == ["good.jpg"]
    assert {row.key: row.reason for row in bad} == {
        "truncated.jpg": "truncated",
        "empty.jpg": "empty",
        "text.jpg": "undecodable",
        "small.png": "too_small",
        "square.png": "bad_aspect",
        "absent.jpg": "missing_file",
    }
    assert "64 x 64 px; a panorama of 360 degrees is 1.90 to 32 times as wide as high" in bad[-2].detail


def test_the_file_says_what_its_row_does_not(tmp_path: Path) -> None:
    sphere = (
        b"<x GPano:ProjectionType='equirectangular' GPano:FullPanoWidthPixels='800' "
        b"GPano:CroppedAreaImageWidthPixels='400'/>"
    )
    photo_file(tmp_path / "half.jpg", xmp=sphere)
    photo_file(tmp_path / "plain.jpg")
    text = "id,photo,lat,lon,view,fov_deg\na,half.jpg,1,2,,\nb,half.jpg,1,2,street,\nc,half.jpg,1,2,,100\n"
    (tmp_path / "photos.csv").write_text(text + "d,plain.jpg,1,2,,\ne,plain.jpg,1,2,street,\n")
    photos, _ = read_photos(str(tmp_path / "photos.csv"), ViewDefaults("panorama", None))
    rows, bad, _ = load_photos(photos)
    assert not bad
    assert [(row["view"], row["fov_deg"]) for row in rows.to_pylist()] == [
        ("panorama", 180.0),
        ("street", 70.0),
        ("panorama", 100.0),
        ("panorama", 360.0),
        ("street", 70.0),
    ]


def test_the_heading_of_a_panorama_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    photo_file(
        tmp_path / "a.jpg", xmp=b"<x GPano:ProjectionType='equirectangular' GPano:PoseHeadingDegrees='75'/>"
    )
    (tmp_path / "photos.csv").write_text(
        "id,photo,lat,lon,heading_deg,fov_deg\n1,a.jpg,1,2,,180\n2,a.jpg,1,2,30,180\n"
    )
    for wanted, headings, unused in ((False, [None, 30.0], 1), (True, [75.0, 30.0], 0)):
        photos, _ = read_photos(str(tmp_path / "photos.csv"), ViewDefaults("panorama", None, wanted))
        rows, bad, count = load_photos(photos)
        assert not bad
        assert rows["heading_deg"].to_pylist() == headings
        assert count == unused
    assert unused_headings("photos", 0) == ""
    assert "photos: 1 files state a heading" in unused_headings("photos", 1)


def test_a_position_inside_the_photo_is_never_used(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (59.0, 0.0, 0.0), 3: "E", 4: (24.0, 0.0, 0.0)})
    photo_file(tmp_path / "gps.jpg", exif=exif)
    photos, refused = read(tmp_path, "photo,lat,lon\ngps.jpg,,\n")
    assert not photos
    assert refused[0].reason == "missing_coordinate"
