"""Training data in a test: the same id, the same picture, a photo from next door."""

import pyarrow as pa
import pytest

from geoloc.core import geodesy, part_table, schemas
from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.leaks import check_leaks

HERE = geodesy.LatLon(59.0, 24.0)


def ingested(root, name: str, *, photos: dict[str, tuple[bytes, float]], tiles: dict[str, bytes]) -> str:
    """Tables of photos (picture, metres north of a point) and tiles (picture)."""
    queries = [
        {
            "query_id": key,
            "view": "panorama",
            "image": image,
            "fov_deg": 360.0,
            "lat": geodesy.destination(*HERE, 0.0, metres).lat,
            "lon": HERE.lon,
        }
        for key, (image, metres) in photos.items()
    ]
    cut = [
        {"tile_id": key, "metres_per_pixel": 0.4, "image": image, "source": "t"}
        for key, image in tiles.items()
    ]
    for kind, schema, rows in (("queries", schemas.QUERIES, queries), ("tiles", schemas.TILES, cut)):
        uri = str(root / name / kind)
        table = schemas.conform(pa.Table.from_pylist(rows, schema=schema), schema)
        part_table.write_table(uri, [table], kind=kind, fingerprint=name)
    return str(root / name)


@pytest.fixture
def trained(tmp_path):
    return ingested(tmp_path, "trained", photos={"a": (b"A", 0.0), "b": (b"B", 500.0)}, tiles={"t": b"T"})


def test_a_held_out_district_passes(tmp_path, trained):
    held_out = ingested(tmp_path, "test", photos={"c": (b"C", 600.0)}, tiles={"u": b"U"})
    assert check_leaks(held_out, trained, radius_m=25.0) == []


def test_the_same_id_is_refused(tmp_path, trained):
    leaking = ingested(tmp_path, "test", photos={"a": (b"C", 600.0), "d": (b"D", 700.0)}, tiles={})
    with pytest.raises(
        InputError, match=r"1 of 2 queries of the evaluation were trained on \(such as 'a'\)"
    ) as caught:
        check_leaks(leaking, trained, radius_m=25.0)
    assert caught.value.reason == "train_test_overlap"


def test_the_same_photo_under_another_id_is_refused(tmp_path, trained):
    leaking = ingested(tmp_path, "test", photos={"c": (b"B", 600.0)}, tiles={})
    with pytest.raises(
        InputError, match=r"1 pictures of the evaluation's queries are, byte for byte"
    ) as caught:
        check_leaks(leaking, trained, radius_m=25.0)
    assert caught.value.reason == "train_test_pictures"


def test_the_same_picture_of_another_tile_is_said(tmp_path, trained):
    alike = ingested(tmp_path, "test", photos={}, tiles={"u": b"T", "v": b"V"})
    (sentence,) = check_leaks(alike, trained, radius_m=25.0)
    assert sentence.startswith(
        "1 pictures of the evaluation's tiles are, byte for byte, in the training (such as"
    )
    assert "'u'" in sentence


def test_a_photo_from_next_door_is_said(tmp_path, trained):
    near = ingested(tmp_path, "test", photos={"c": (b"C", 512.0), "d": (b"D", 600.0)}, tiles={})
    (sentence,) = check_leaks(near, trained, radius_m=25.0)
    assert sentence.startswith(
        "1 of 2 photos lie within 25 m of a photo of the training (the nearest at 12.0 m): the figures flatter"
    )
    assert check_leaks(near, trained, radius_m=11.0) == []


def test_a_protocol_that_shares_its_area_shares_tiles_and_streets_but_no_photo(tmp_path, trained):
    same_area = ingested(tmp_path, "test", photos={"c": (b"C", 3.0)}, tiles={"t": b"T"})
    assert check_leaks(same_area, trained, radius_m=25.0, shared_area=True) == []
    leaking = ingested(tmp_path, "again", photos={"c": (b"A", 600.0)}, tiles={"t": b"T"})
    with pytest.raises(InputError, match="byte for byte"):
        check_leaks(leaking, trained, radius_m=25.0, shared_area=True)
