"""The demo at a tiny size: every stage for real, through the command line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import geopandas
import httpx
import pytest
from small_ingest import part_path

from geoloc import Localizer, cli
from geoloc.core import geodesy, part_table
from geoloc.core.errors import ServiceUnavailable
from geoloc.demo.memory import MemoryWatch
from geoloc.demo.result import EVALUATIONS, DemoResult
from geoloc.demo.service_check import Post, post_photos
from geoloc.demo.text import post_summary

from .conftest import RECIPE, SIZES, FirstRun, Geoloc, demo_words, weights_path

pytestmark = [  # the first test waits for the whole way
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("parts_here_in_module"),
]


def test_all_stages_ran_and_were_timed(demo: Any) -> None:
    assert list(demo["seconds"]) == [
        *("city", "ingest", "train", "encode", "index", "calibrate", "evaluate"),
        *("serve", "report"),
    ]
    assert demo["peak_memory_bytes"] > 2**28


def test_galleries_have_the_tiles_that_were_asked_for(demo: Any) -> None:
    found = {name: (one["queries"], one["gallery"]) for name, one in demo["evaluations"].items()}
    every = SIZES["test-photos"] + SIZES["distractors"] + SIZES["validation-photos"]
    assert found == {
        "small": (SIZES["test-photos"], SIZES["test-photos"]),
        "gallery": (SIZES["test-photos"], every),
        "anywhere": (SIZES["anywhere-photos"], every),
    }


def test_floats_codes_and_re_ranking_stand_beside_chance(demo: Any) -> None:
    table = {row["method"]: row["recall"] for row in demo["evaluations"]["small"]["table"]}
    assert list(table) == ["floats", "codes 64, asymmetric", "codes 64", "codes 64 + re-rank 100", "chance"]
    # Every photo has one true tile, and re-ranking more than the gallery is the float order.
    assert table["chance"]["R@1"] == pytest.approx(100 / SIZES["test-photos"])
    assert table["codes 64 + re-rank 100"] == table["floats"]


def test_an_index_of_few_validation_photos_is_not_calibrated_and_says_why(
    demo: Any, demo_folder: str
) -> None:
    record = json.loads(Path(demo_folder, "calibration", "calibration.json").read_text())
    assert record["calibration"]["query_kinds"] == {}
    assert ["it needs 60" in sentence for sentence in record["not_calibrated"]] == [True, True]
    assert not demo["evaluations"]["gallery"]["calibrated"]
    assert not demo["evaluations"]["small"]["calibrated"]


@pytest.mark.slow
def test_an_index_of_many_validation_photos_is_calibrated_or_says_why_not(
    geoloc: Geoloc, tmp_path: Path
) -> None:
    """Weights of a few steps may have nothing to promise; the fit is then empty, with a sentence for each kind."""
    figures = geoloc(*demo_words(str(tmp_path), validation_photos=140), "--no-serve", "--json")
    record = json.loads((tmp_path / "calibration" / "calibration.json").read_text())
    fitted = set(record["calibration"]["query_kinds"])
    assert len(fitted) + len(record["not_calibrated"]) == 2
    assert not any("it needs 60" in sentence for sentence in record["not_calibrated"])
    assert figures["evaluations"]["gallery"]["calibrated"] == bool(fitted)
    assert not figures["evaluations"]["small"]["calibrated"]


def test_posted_photos_were_answered_with_their_error(demo: Any, demo_folder: str) -> None:
    queries = part_table.read(
        f"{demo_folder}/tables/test/queries", columns=["query_id", "lat", "lon"]
    ).to_pylist()
    truth = {row["query_id"]: (row["lat"], row["lon"]) for row in queries}
    assert len(demo["posts"]) == 6
    for post in demo["posts"]:
        assert (post["true_lat"], post["true_lon"]) == truth[post["query_id"]]
        assert post["matches"]
        if post["error_m"] is not None:
            error = geodesy.distance_m(post["lat"], post["lon"], *truth[post["query_id"]])
            assert post["error_m"] == pytest.approx(float(error), abs=0.01)


def test_the_report_has_everything_inside(demo: Any, demo_folder: str) -> None:
    page = Path(demo_folder, "report.html").read_text()
    for post in demo["posts"]:
        assert post["query_id"] in page
    assert page.count("data:image/jpeg;base64,") >= 6 * 4  # photo, polar, true tile, matches
    assert page.count('<div id="map"') == 1
    # The map's own code is left out: tests/evaluation/report looks at what a browser asks for.
    page = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    for name in re.findall(r'href="([^"]+)"', page):
        assert Path(demo_folder, name).is_file()


def test_run_again_all_stages_are_reused(demo: Any, first_run: FirstRun, demo_folder: str) -> None:
    assert demo["progress"].count("(reused)") >= 12
    assert weights_path(demo_folder).stat().st_mtime_ns == first_run.weights_ns


def test_what_is_printed_names_the_figures_and_how_to_go_on(
    demo: Any, first_run: FirstRun, demo_folder: str
) -> None:
    """The second run has the figures that the first one printed."""
    for text in (first_run.text, DemoResult.model_validate(demo).text()):
        for name in EVALUATIONS:
            recall = demo["evaluations"][name]["table"][0]["recall"]
            line = rf"floats +{recall['R@1']:.1f} +{recall['R@5']:.1f} +{recall['R@10']:.1f}"
            assert re.search(line, text)
        assert f"Keep serving: geoloc serve --index {demo_folder}/index" in text
        assert re.search(r"minutes of stages, at most \d+\.\d GB of memory", text)


def test_without_serving_everything_else_is_there(first_run: FirstRun) -> None:
    """What jobs/demo.py runs: no service, no posts, the same figures in the same page."""
    assert "posted to the service" not in first_run.text + first_run.page
    assert f"{SIZES['test-photos']} photos against {SIZES['test-photos']} tiles" in first_run.text
    assert "data:image" not in first_run.page


def test_other_settings_are_refused_with_the_way_out(
    demo: Any, demo_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*demo_words(demo_folder), "--seed", "8"]) == 2
    assert re.fullmatch(r"error: .*city.* pass --overwrite .*\n", capsys.readouterr().err)


def test_localize_writes_fixes_that_gis_tools_open(
    demo: Any, demo_folder: str, geoloc: Geoloc, tmp_path: Path
) -> None:
    photos = f"{demo_folder}/city/test/photos.csv"
    result = geoloc(
        *(
            "localize",
            "--index",
            demo["served_index"],
            "--photos",
            photos,
            "--output",
            str(tmp_path),
            "--json",
        )
    )
    assert result["photos"] == SIZES["test-photos"]
    frame = geopandas.read_parquet(part_path(f"{tmp_path}/fixes", 0))
    assert len(frame) == SIZES["test-photos"]
    assert int(frame["located"].sum()) == result["located"]
    features = json.loads((tmp_path / "fixes.geojson").read_text())["features"]
    assert len(features) == SIZES["test-photos"]


def test_the_index_is_used_as_a_library_without_ray(demo: Any, demo_folder: str) -> None:
    photo = next(Path(demo_folder, "city", "test", "photos").glob("*.jpg"))
    fix = Localizer.open(demo["served_index"]).localize(photo.read_bytes(), heading_deg=0.0, fov_deg=360.0)
    assert fix.snapshot_id == demo["evaluations"]["gallery"]["snapshot_id"]
    assert fix.matches


def test_inspect_verify_diff_and_gc_see_the_same_index(demo: Any, demo_folder: str, geoloc: Geoloc) -> None:
    index, small = demo["served_index"], f"{demo_folder}/index-small"
    described = geoloc("index", "inspect", index, "--json")
    assert described["tiles"] == demo["evaluations"]["gallery"]["gallery"]
    assert geoloc("index", "verify", index, "--json")["problems"] == []
    changed = geoloc("index", "diff", small, index, "--json")
    assert (changed["removed"], changed["added"]) == (0, SIZES["distractors"] + SIZES["validation-photos"])
    assert geoloc("index", "gc", index, "--dry-run", "--json")["removed_snapshots"] == []


def test_a_model_that_does_not_fit_the_codes_is_one_sentence(
    demo: Any, demo_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from geoloc.models.geolocalizer import GeoLocalizer
    from geoloc.models.store import save_model
    from geoloc.recipe.recipe import Recipe

    recipe = Recipe.load(RECIPE)
    save_model(GeoLocalizer(recipe.model), recipe, str(tmp_path / "other"))
    words = ["index", "build", "--codes", f"{demo_folder}/codes/test", "--model", str(tmp_path / "other")]
    assert cli.main([*words, "--output", str(tmp_path / "index")]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert "model" in err
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_a_service_that_is_not_there_is_one_sentence(demo: Any, demo_folder: str, free_port: Any) -> None:
    with pytest.raises(
        ServiceUnavailable, match=r"The service at http://127\.0\.0\.1:\d+.* cannot be reached"
    ):
        post_photos(f"http://127.0.0.1:{free_port()}", f"{demo_folder}/tables/test/queries", 1)


def test_an_answer_that_is_an_error_is_shown(
    demo: Any, demo_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = httpx.MockTransport(lambda _request: httpx.Response(503, text="busy"))
    original = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: original(transport=refuse, **options))
    with pytest.raises(ServiceUnavailable, match=r"The service answered 503 to .*: busy"):
        post_photos("http://service", f"{demo_folder}/tables/test/queries", 1)


def _post(error_m: float | None) -> Post:
    where = {"lat": None if error_m is None else 1.0, "lon": None if error_m is None else 2.0}
    return Post(
        query_id="q", true_lat=1, true_lon=2, radius_m=None, confidence=None, error_m=error_m,
        milliseconds=1, reason=None if error_m is not None else "ambiguous", matches=[], **where,
    )  # fmt: skip


def test_what_was_not_located_counts_as_infinitely_far() -> None:
    assert "the median error is 4.0 m" in post_summary([_post(2.0), _post(4.0), _post(None)])
    assert "half or more were not located" in post_summary([_post(2.0), _post(None), _post(None)])


def test_memory_is_measured() -> None:
    import time

    with MemoryWatch() as memory:
        ballast = io.BytesIO(b"x" * 300_000_000)
        deadline = time.monotonic() + 10
        while memory.peak_bytes < 300_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert memory.peak_bytes > ballast.getbuffer().nbytes
