from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoloc.training.comparison.measurements import Measurement
from geoloc.training.comparison.model_facts import ModelFacts
from geoloc.training.comparison.tables import make_tables, shares_of_aligned, spread, to_markdown, wilson
from geoloc.training.heading_and_fov import CONDITIONS


def measured(
    recipe: str, seed: int, condition: str, recall: float, error: float | None = None
) -> Measurement:
    return Measurement(
        recipe=recipe,
        seed=seed,
        test="t",
        condition=condition,
        photos=1000,
        tiles=1000,
        recall_1=recall,
        recall_5=recall + 1,
        recall_10=recall + 2,
        heading_error_deg=error,
        within_10_deg=None if error is None else 90.0,
    )


def described(
    recipe: str, seed: int = 0, bridge: str = "polar image", step_core_s: float = 0.5
) -> ModelFacts:
    return ModelFacts(
        recipe=recipe,
        seed=seed,
        model_id="x",
        bridge=bridge,
        what=f"{bridge}, GeM",
        parameters=1_250_000,
        embedding_dim=512,
        steps=400,
        batch_size=64,
        pairs_per_s=200.0,
        step_core_s=step_core_s,
    )


def cells(markdown: str, start: str) -> list[str]:
    (line,) = [line for line in markdown.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_spreads_the_protocols_mean_and_the_share_of_aligned() -> None:
    rows = [
        measured(
            "a",
            seed,
            each.name,
            {"aligned": 80.0, "360": 40.0}.get(each.name, 50.0) + 10 * seed,
            2.0 + seed if each.name == "360" else None,
        )
        for seed in (0, 1)
        for each in CONDITIONS
    ]
    rows += [measured("b", 0, "aligned", 80.0)]
    models = [described("b"), described("a", 0, "no transform"), described("a", 1, "no transform", 0.7)]
    text = to_markdown(rows, models)
    assert "## t: 1,000 photos, 1,000 tiles" in text
    assert cells(text, "| a | no transform, GeM | 85")[2:] == [
        "85.0 ± 7.1",
        "45.0 ± 7.1",
        *["55.0 ± 7.1"] * 5,
        "59.0 ± 7.1",  # (80 + 40 + 3 * 50) / 5 = 54, and 64
        "52.8 ± 3.9",  # 40 / 80 and 50 / 90
        "2.5 ± 0.7",
        "90.0 ± 0.0",
    ]
    assert cells(text, "| b | polar image, GeM | 80")[2:5] == ["80.0", "-", "-"]
    assert cells(text, "| a | no transform, GeM | 0, 1")[2:] == [
        "0, 1",
        "1.25",
        "512",
        "400 x 64",
        "0.60",
        "200",
    ]
    assert "50 % is 46.9 to 53.1" in text


def test_lines_are_sorted_by_how_the_views_are_bridged() -> None:
    bridges = ("thin plate spline", "no transform", "polar image", "no transform")
    models = [described(f"r{number}", 0, bridge) for number, bridge in enumerate(bridges)]
    rows = [measured(f"r{number}", 0, "aligned", 10.0 * number) for number in range(4)]
    test, recipes = make_tables(rows, models)
    for table in (test, recipes):
        assert [line.cells[0] for line in table.lines] == ["r1", "r3", "r2", "r0"]
    assert test.head == ("R@1, %", "what", "aligned", "R@5, aligned", "R@10, aligned")
    assert test.lines[1].cells[2:] == ("30.0", "31.0", "32.0")


def test_a_share_of_next_to_nothing_is_not_said() -> None:
    for aligned, said in ((4.9, []), (5.0, [80.0])):
        assert shares_of_aligned([measured("a", 0, "aligned", aligned), measured("a", 0, "360", 4.0)]) == said


def test_spread() -> None:
    assert (spread([]), spread([1.26]), spread([1.0, 3.0])) == ("-", "1.3", "2.0 ± 1.4")


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilsons_interval_holds_the_shares_whose_test_accepts_what_was_seen(count: int, share: float) -> None:
    low, high = (bound / 100 for bound in wilson(100 * share, count))
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1
    for bound in (low, high):
        if 1e-6 < bound < 1 - 1e-6:
            # The interval's ends are where the seen share is exactly 1.96 standard errors away.
            assert abs(share - bound) == pytest.approx(
                1.959964 * math.sqrt(bound * (1 - bound) / count), rel=1e-4, abs=1e-9
            )
