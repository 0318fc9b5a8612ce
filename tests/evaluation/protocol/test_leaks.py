"""Training data in a test: the same id, the same picture, a photo from next door."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import geodesy, part_table, schemas
from geoloc.core.errors import InputError
from geoloc.evaluation.protocol import leaks
from geoloc.evaluation.protocol.leaks import check_leaks, map_cells

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


def test_the_very_table_of_the_training_is_refused(trained):
    """Sides are told apart by their part in the comparison: here both have the same URI."""
    with pytest.raises(InputError, match=r"2 of 2 queries of the evaluation were trained on") as caught:
        check_leaks(trained, trained, radius_m=25.0)
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


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.99])),
    st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0])),
    st.sampled_from([1.0, 25.0, 5000.0]),
)
def test_near_photos_meet_in_a_cell(seed, lat, lon, radius_m):
    """Anywhere on Earth, the cell of a photo is among those of every photo within the radius."""
    rng = np.random.default_rng(seed)
    frame = geodesy.LocalFrame(geodesy.LatLon(lat, lon))
    ours = frame.to_degrees(*rng.uniform(-3 * radius_m, 3 * radius_m, (2, 30)))
    theirs = frame.to_degrees(*rng.uniform(-3 * radius_m, 3 * radius_m, (2, 30)))
    row, cell = map_cells(*theirs, radius_m, around=True)
    around = set(zip(row.tolist(), cell.tolist(), strict=True))
    assert len(around) == len(row)
    own = dict(zip(*(each.tolist() for each in map_cells(*ours, radius_m, around=False)), strict=True))
    metres = geodesy.distance_m(ours[0][:, None], ours[1][:, None], *theirs)
    for photo, other in zip(*np.nonzero(metres <= radius_m), strict=True):
        assert (int(other), own[int(photo)]) in around


@pytest.mark.parametrize("rows", [3, 1_000_000])
def test_many_partitions_find_what_a_plain_comparison_finds(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(leaks, "_ROWS_PER_PARTITION", rows)
    monkeypatch.setattr(leaks, "_PARTS_PER_TASK", 1)
    rng = np.random.default_rng(rows)
    north = {f"{side}{n}": float(m) for side in "xy" for n, m in enumerate(rng.uniform(0, 3000, 60))}
    sides = {
        side: ingested(
            tmp_path,
            side,
            photos={name: (name.encode(), m) for name, m in north.items() if name[0] == side},
            tiles={f"{side}{n}": bytes([int(rng.integers(0, 40))]) for n in range(30)},
        )
        for side in "xy"
    }
    pictures = {
        side: [row["image"] for row in part_table.read(f"{sides[side]}/tiles").to_pylist()] for side in "xy"
    }
    same = set(pictures["x"]) & set(pictures["y"])
    metres = np.abs(np.subtract.outer(
        [m for name, m in north.items() if name[0] == "x"], [m for name, m in north.items() if name[0] == "y"]
    )).min(axis=1)  # fmt: skip
    near, alike = check_leaks(sides["x"], sides["y"], radius_m=25.0)
    assert near.startswith(f"{(metres <= 25).sum()} of 60 photos lie within 25 m")
    assert f"(the nearest at {metres.min():.1f} m)" in near
    first = min(f"x{pictures['x'].index(image)}" for image in same)
    assert alike.startswith(f"{len(same)} pictures of the evaluation's tiles")
    assert f"such as that of {first!r}" in alike
