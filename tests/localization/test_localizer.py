"""Photos to fixes on a small real index, in a plain process."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from small_index import ORIGIN, SPACING_M, build, encoded

from geoloc import Localizer
from geoloc.core import geodesy, schemas, storage
from geoloc.core.errors import ArtifactError, InputError, ModelMismatch, QueryError
from geoloc.core.photo_facts import PhotoFacts
from geoloc.index.format.commit import current_snapshot
from geoloc.index.search.region import polygon
from geoloc.localization import fix as reasons
from geoloc.localization.calibration import Calibration, calibration_uri
from geoloc.localization.calibration_fit import fit_kind
from geoloc.localization.cluster import ClusterSettings
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.localization.query_photos import encode_photos, photo

from .judged import training


@pytest.fixture(scope="module")
def localizer(small_index):
    return Localizer.open(small_index.index, device="cpu")


def test_photos_are_located_at_their_tiles(localizer, small_index):
    for number in range(0, 60, 7):
        fix = localizer.localize(
            small_index.panoramas[number], view="panorama", heading_deg=0.0, uncalibrated=True
        )
        assert fix.located
        assert not fix.calibrated
        assert fix.matches[0].tile_id == small_index.tile_ids[number]
        assert fix.matches[0].in_cluster
        error = geodesy.distance_m(fix.lat, fix.lon, small_index.lat[number], small_index.lon[number])
        assert error < 1.0
        assert fix.heading_deg == 0.0
        assert fix.snapshot_id == localizer.snapshot_id
        assert fix.radius_m is None
        assert fix.confidence is None


@pytest.mark.parametrize("turn_deg", [0.0, 90.0, 225.0])
def test_an_unknown_heading_is_found(localizer, small_index, turn_deg):
    # Turned to the right by its heading, the camera sees what lay to the right in the middle.
    image = np.roll(small_index.panoramas[11], -round(turn_deg / 360 * 64), axis=1)
    fix = localizer.localize(image, view="panorama")
    assert fix.matches[0].tile_id == small_index.tile_ids[11]
    assert abs((fix.heading_deg - turn_deg + 180) % 360 - 180) < 180 / localizer.headings


def test_a_known_heading_turns_the_panorama(localizer, small_index):
    image = np.roll(small_index.panoramas[11], -16, axis=1)
    right = localizer.localize(image, view="panorama", heading_deg=90.0)
    wrong = localizer.localize(image, view="panorama", heading_deg=270.0)
    assert right.matches[0].tile_id == small_index.tile_ids[11]
    assert right.matches[0].similarity > wrong.matches[0].similarity


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_drone_photos_of_known_and_unknown_heading(localizer, small_index, quarter_turns):
    # The top of a photo turned counter-clockwise by 90 degrees looks along east (heading 90).
    image = np.ascontiguousarray(np.rot90(small_index.tiles[5], quarter_turns))
    for heading in (90.0 * quarter_turns, None):
        fix = localizer.localize(image, view="drone", heading_deg=heading)
        assert fix.matches[0].tile_id == small_index.tile_ids[5]
        assert abs((fix.heading_deg - 90.0 * quarter_turns + 180) % 360 - 180) < 6.0


def test_paths_bytes_and_pixels_answer_alike(localizer, small_index, tmp_path):
    data = encoded(small_index.panoramas[3])
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    answers = [
        localizer.localize(one, view="panorama", heading_deg=0.0)
        for one in (path, str(path), data, small_index.panoramas[3])
    ]
    assert len({answer.model_dump_json() for answer in answers}) == 1


def test_a_prior_restricts_the_search(localizer, small_index):
    near = (small_index.lat[0], small_index.lon[0])
    fix = localizer.localize(
        small_index.panoramas[59], view="panorama", heading_deg=0.0, near=near, within_m=1.5 * SPACING_M
    )
    assert len(fix.matches) == 4
    assert small_index.tile_ids[59] not in {match.tile_id for match in fix.matches}


def test_a_prior_may_be_a_polygon(localizer, small_index):
    lat, lon = np.array(small_index.lat), np.array(small_index.lon)
    south, west, north, east = lat.min() - 1e-5, lon.min() - 1e-5, lat.max() + 1e-5, lon.max() + 1e-5
    half = polygon([(south, west), (south, east), (north, west)])  # the half that the last tile is not in
    inside = {small_index.tile_ids[row] for row in np.flatnonzero(half.contains(lat, lon))}
    assert 0 < len(inside) < len(lat)
    fix = localizer.localize(small_index.panoramas[0], view="panorama", heading_deg=0.0, region=half, k=60)
    assert {match.tile_id for match in fix.matches} == inside
    with pytest.raises(QueryError, match="not both"):
        localizer.localize(small_index.panoramas[0], near=(lat[0], lon[0]), within_m=5.0, region=half)


def test_nothing_in_the_region_is_an_answer(localizer, small_index):
    fix = localizer.localize(small_index.panoramas[0], heading_deg=0.0, near=(0.0, 0.0), within_m=100.0)
    assert not fix.located
    assert fix.reason == reasons.NO_TILE_IN_REGION
    assert fix.lat is None
    assert fix.matches == ()
    assert "No tile lies in the given region" in fix.detail


def test_a_plain_surface_is_said_to_be_one(localizer):
    image = np.full((64, 128, 3), 90, dtype=np.uint8)
    image[::2] += 1
    fix = localizer.localize(image, heading_deg=0.0)
    assert not fix.located
    assert fix.reason == reasons.FEATURELESS
    assert "plain surface" in fix.detail


def test_an_index_without_coordinates_finds_but_does_not_locate(tmp_path):
    small = build(tmp_path, count=9, located=False)
    localizer = Localizer.open(small.index, device="cpu")
    fix = localizer.localize(small.panoramas[4], view="panorama", heading_deg=0.0)
    assert not fix.located
    assert fix.reason == reasons.NO_COORDINATES
    assert fix.matches[0].tile_id == small.tile_ids[4]
    with pytest.raises(QueryError, match="without coordinates"):
        localizer.localize(small.panoramas[4], near=(0.0, 0.0), within_m=5.0)


def test_answers_do_not_depend_on_how_many_matches_are_shown(localizer, small_index):
    answers = [
        localizer.localize(small_index.panoramas[8], view="panorama", heading_deg=0.0, k=k, uncalibrated=True)
        for k in (1, 10, 50)
    ]
    assert len({(answer.lat, answer.lon) for answer in answers}) == 1
    assert [len(answer.matches) for answer in answers] == [1, 10, 50]


def test_a_batch_answers_as_one_by_one(localizer, small_index):
    photos = [
        photo(small_index.panoramas[1], view="panorama", heading_deg=0.0),
        photo(small_index.tiles[2], view="drone"),
        photo(small_index.panoramas[3], view="panorama"),
    ]
    for one, fix in zip(photos, localizer.localize_batch(photos), strict=True):
        alone = localizer.localize_batch([one])[0]
        assert [match.tile_id for match in fix.matches] == [match.tile_id for match in alone.matches]


@pytest.mark.parametrize(
    ("options", "reason", "sentence"),
    [
        ({"view": "satellite"}, "bad_view", "give one of panorama, street, drone"),
        ({"heading_deg": 400.0}, "bad_heading", "degrees clockwise from north"),
        ({"heading_deg": float("nan")}, "bad_heading", "degrees clockwise from north"),
        ({"heading_error_deg": 20.0}, "bad_heading", "give heading_deg too"),
        ({"heading_deg": 0.0, "heading_error_deg": 0.0}, "bad_heading", "leave it out for an exact"),
        ({"view": "street", "pitch_deg": 90.0}, "bad_pitch", "below the horizon"),
        ({"view": "street", "roll_deg": -90.0}, "bad_roll", "clockwise"),
        ({"fov_deg": 0.0}, "bad_fov", "1 to 360"),
        ({"extent_m": -1.0}, "bad_extent", "metres of ground"),
        ({"k": 0}, "k_out_of_range", "give 1 to 1000"),
        ({"k": 1001}, "k_out_of_range", "give 1 to 1000"),
        ({"rerank": -1}, "rerank_out_of_range", "codes only"),
        ({"near": (1.0, 2.0)}, "bad_region", "centre and a radius"),
        ({"near": (95.0, 2.0), "within_m": 5.0}, "bad_region", "WGS84"),
    ],
)
def test_bad_questions_get_a_sentence(localizer, small_index, options, reason, sentence):
    with pytest.raises(QueryError, match=sentence) as caught:
        localizer.localize(small_index.panoramas[0], **options)
    assert caught.value.reason == reason


def test_bad_images_get_a_sentence(localizer, tmp_path):
    with pytest.raises(InputError, match="not one of JPEG"):
        localizer.localize(b"no image at all")
    with pytest.raises(ArtifactError, match="no such file"):
        localizer.localize(tmp_path / "missing.jpg")
    with pytest.raises(QueryError, match="RGB pixels uint8"):
        localizer.localize(np.zeros((64, 64), dtype=np.uint8))


@pytest.mark.parametrize("angle_deg", [0, 15, 45, 90])
@pytest.mark.parametrize("period_px", [8, 24, 60])
def test_parallel_lines_are_nothing_to_match(angle_deg, period_px):
    y, x = np.mgrid[0:256, 0:512]
    along = np.cos(np.radians(angle_deg)) * x + np.sin(np.radians(angle_deg)) * y
    lines = np.where(along % period_px < period_px / 2, 250, 10).astype(np.uint8)
    assert photo(np.repeat(lines[..., None], 3, axis=2), view="panorama").featureless
    lines[:, 256:] = np.random.default_rng(0).integers(0, 255, (32, 32)).repeat(8, 0).repeat(8, 1)
    assert not photo(np.repeat(lines[..., None], 3, axis=2), view="panorama").featureless


def test_what_was_assumed_stands_in_the_fix(localizer, small_index):
    fix = localizer.localize(small_index.panoramas[1])
    assert (fix.view, fix.fov_deg) == ("panorama", 360.0)
    assert fix.assumed == ("fov_deg", "heading_deg", "view")
    told = localizer.localize(small_index.panoramas[1], view="panorama", heading_deg=0.0, fov_deg=360.0)
    assert told.assumed == ()
    assert fix.row("a")["assumed"] == ("fov_deg", "heading_deg", "view")
    with pytest.raises(
        QueryError, match=r"128 x 72 px; a panorama of 360 degrees is 1\.90 to 32 times as wide"
    ):
        photo(np.zeros((72, 128, 3), np.uint8), view="panorama")


def test_views_are_guessed_from_the_shape():
    wide, square = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    assert photo(wide).view == "panorama"
    assert photo(square).view == "street"
    assert photo(square).fov_deg < 180
    assert photo(wide, fov_deg=90.0).view == "street"
    assert photo(np.zeros((720, 1280, 3), np.uint8)).view == "street"  # a frame of 16:9 is no full circle
    for width in (1560, 1680, 1720):  # phones' screens of 19.5:9 and 21:9, the cinema's 2.39
        assert photo(np.zeros((720, width, 3), np.uint8)).view == "street"
    assert photo(np.zeros((112, 616, 3), np.uint8)).view == "panorama"  # a full circle without sky and ground
    assert photo(wide, facts=PhotoFacts(ordinary_lens=True)).view == "street"
    assert photo(square, facts=PhotoFacts(90.0)).view == "panorama"
    assert photo(square, facts=PhotoFacts(90.0)).fov_deg == 90.0
    assert photo(square, view="street", facts=PhotoFacts(90.0)).fov_deg == 70.0
    assert photo(square, extent_m=50.0).view == "drone"
    assert photo(wide, heading_deg=-90.0).heading_deg == 270.0


def test_codes_of_another_model_are_refused(localizer, small_index):
    queries = encode_photos(localizer.encoder, [photo(small_index.panoramas[0], heading_deg=0.0)])
    strange = EncodedQueries(queries.embedding, queries.code, queries.heading_deg, "panorama", "other-model")
    with pytest.raises(ModelMismatch, match="other-model"):
        localizer.locator.locate(strange)


def test_codes_alone_locate_too(localizer, small_index):
    fix = localizer.localize(small_index.tiles[7], view="drone", heading_deg=0.0, rerank=0)
    assert fix.matches[0].tile_id == small_index.tile_ids[7]
    assert fix.matches[0].similarity == 1.0
    assert fix.ordered_by == "logits"
    assert fix.matches[0].distance_bits == 0


def calibration_of(snapshot, **changes):
    """A calibration for known headings, fitted to made-up places: what it says is monotone, that is enough here."""
    fields = {
        "snapshot_id": snapshot.snapshot_id,
        "model_id": snapshot.manifest.model.model_id,
        "rerank": 100,
        "bits": snapshot.bits,
        "tiles": snapshot.count,
        "spacing_m": SPACING_M,
        "origin": None,
        "transferred": False,
        "query_kinds": {"panorama/heading_known": fit_kind(training(200), ClusterSettings())},
    }
    return Calibration(**fields | changes)


def with_threshold(calibration, threshold):
    kinds = {
        name: fit.model_copy(update={"threshold": threshold}) for name, fit in calibration.query_kinds.items()
    }
    return calibration.model_copy(update={"query_kinds": kinds})


def test_a_calibrated_locator_promises_or_says_why_not(localizer, small_index):
    snapshot = localizer.locator.snapshot
    calibration = calibration_of(snapshot)
    photo = small_index.panoramas[0]

    def answer(calibration, **options):
        sure = Localizer(Locator(snapshot, calibration), localizer.encoder)
        return sure.localize(photo, view="panorama", heading_deg=0.0, **options)

    fix = answer(with_threshold(calibration, -100.0))
    assert fix.located
    assert fix.calibrated
    assert fix.notes == ()
    assert 0 < fix.confidence < 1
    assert fix.radius_m > 0
    first = fix.hypotheses[0]
    assert (first.lat, first.lon, first.radius_m, first.weight) == (
        fix.lat,
        fix.lon,
        fix.radius_m,
        fix.confidence,
    )
    assert sum(place.weight for place in fix.hypotheses) <= 1.0 + 1e-9
    assert all(place.radius_m > 0 for place in fix.hypotheses)
    rest = [place.weight for place in fix.hypotheses[1:]]
    assert rest == sorted(rest, reverse=True)
    for unsure in (
        answer(with_threshold(calibration, 100.0)),
        answer(with_threshold(calibration, -100.0), min_confidence=1.0),
    ):
        assert not unsure.located
        assert unsure.reason == reasons.AMBIGUOUS
        assert (unsure.lat, unsure.radius_m, unsure.confidence) == (None, None, None)
        assert unsure.hypotheses == fix.hypotheses
        assert "not in the index" in unsure.detail


def test_a_kind_of_query_without_a_calibration_says_so(localizer, small_index):
    snapshot = localizer.locator.snapshot
    sure = Localizer(Locator(snapshot, calibration_of(snapshot)), localizer.encoder)
    drone = sure.localize(small_index.tiles[0], view="drone", heading_deg=0.0)
    assert (drone.located, drone.calibrated, drone.reason) == (False, False, reasons.UNCALIBRATED)
    assert "geoloc calibrate" in drone.detail
    assert drone.hypotheses[0].tiles >= 1
    wanted = sure.localize(small_index.tiles[0], view="drone", heading_deg=0.0, uncalibrated=True)
    assert (wanted.located, wanted.calibrated, wanted.confidence) == (True, False, None)
    assert (wanted.lat, wanted.lon) == (drone.hypotheses[0].lat, drone.hypotheses[0].lon)
    codes_only = sure.localize(small_index.panoramas[0], view="panorama", heading_deg=0.0, rerank=0)
    assert not codes_only.calibrated, "similarities of codes are not those that were fitted"


def test_a_calibration_of_one_comparison_does_not_hold_for_the_other(localizer):
    snapshot, kind = localizer.locator.snapshot, "panorama/heading_known"
    for fitted in (True, False):
        of_codes = calibration_of(snapshot, rerank=0, asymmetric=fitted)
        assert Locator(snapshot, of_codes, asymmetric=fitted).fit_for(kind, 0) is not None
        assert Locator(snapshot, of_codes, asymmetric=not fitted).fit_for(kind, 0) is None
    by_floats = calibration_of(snapshot)
    assert Locator(snapshot, by_floats, asymmetric=False).fit_for(kind, 100) is not None, (
        "floats ordered both"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transferred": True}, "came with the model"),
        ({"origin": "b" * 32}, "tiles were added or removed since"),
        ({"spacing_m": 10.0}, "tiles every 10.0 m, the index has them every"),
        ({"tiles": 10}, "fitted on 10 tiles, the index has 60"),
        ({"bits": 64}, "codes of 64 bits, the index has 128"),
        ({"rerank": 20}, "fitted with rerank 20, this search has 100"),
    ],
)
def test_what_changed_since_the_fit_stands_in_the_answer(localizer, small_index, changes, words):
    snapshot = localizer.locator.snapshot
    sure = Localizer(Locator(snapshot, calibration_of(snapshot, **changes)), localizer.encoder)
    fix = sure.localize(small_index.panoramas[0], view="panorama", heading_deg=0.0)
    assert fix.calibrated
    assert any(words in note and "geoloc calibrate" in note for note in fix.notes)


def test_the_calibration_of_another_model_is_not_used(localizer, small_index):
    snapshot = localizer.locator.snapshot
    sure = Localizer(Locator(snapshot, calibration_of(snapshot, model_id="other")), localizer.encoder)
    fix = sure.localize(small_index.panoramas[0], view="panorama", heading_deg=0.0)
    assert (fix.located, fix.calibrated) == (False, False)
    assert "belongs to model other" in fix.notes[0]


def test_an_old_calibration_is_refused_in_the_answers(tmp_path):
    small = build(tmp_path, count=9)
    snapshot_id = current_snapshot(small.index)
    old = {"format_version": 1, "snapshot_id": snapshot_id, "rerank": 100, "protocols": {}}
    storage.write_bytes(calibration_uri(small.index, snapshot_id), json.dumps(old).encode())
    fix = Localizer.open(small.index, device="cpu").localize(
        small.panoramas[0], view="panorama", heading_deg=0.0
    )
    assert not fix.calibrated
    assert "calibration of format 1" in fix.notes[0]


def test_a_fix_is_a_row_of_the_results_table(localizer, small_index):
    fix = localizer.localize(
        small_index.panoramas[0], view="panorama", heading_deg=0.0, k=3, uncalibrated=True
    )
    table = schemas.with_geometry(pa.Table.from_pylist([fix.row("q")], schema=schemas.FIXES))
    row = table.to_pylist()[0]
    assert row["query_id"] == "q"
    assert len(row["matches"]) == 3
    assert row["lat"] == fix.lat
    assert abs(row["lat"] - ORIGIN.lat) < 0.1


def test_importing_geoloc_loads_neither_torch_nor_ray():
    code = "import sys, geoloc; print([m for m in ('torch', 'ray', 'faiss', 'pyarrow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_localizer_needs_no_ray():
    code = "import sys; from geoloc import Localizer; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
