"""Best and worst cases: which queries, and what stands beside them."""

import re

import numpy as np
import pytest

from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES, PROTOCOLS
from geoloc.evaluation.protocol.questions import Questions
from geoloc.evaluation.ranking.ranks import TruthTable
from geoloc.evaluation.report.best_and_worst import Cases, Pictures
from geoloc.evaluation.report.recall_table import direction_tables
from tests.evaluation.small_sets import photos, tiles


def cases(*, located: bool) -> Cases:
    """Five photos; photo 0 is found first, photo 3 last, photo 4 has no right tile."""
    scores = np.array([[9, 1, 2, 3], [1, 8, 9, 2], [1, 2, 9, 3], [9, 8, 7, 1], [1, 2, 3, 9]], np.float32)
    truth = TruthTable(np.arange(4), np.arange(4))
    where = {"lat": np.array([59.0, 59.001, 59.002, 59.003]), "lon": np.full(4, 24.0)} if located else {}
    here = (
        {"lat": np.array([59.0, 59.001, 59.002, 59.003, 59.001]), "lon": np.full(5, 24.0)} if located else {}
    )
    asking = photos(scores[:, None], np.zeros((5, 1, 1), np.uint8), **here)
    gallery = tiles(np.eye(4, dtype=np.float32), np.zeros((4, 1), np.uint8), **where)
    questions = Questions(PROTOCOLS["tiles"], PHOTOS_TO_TILES, asking, gallery, truth, None, {}, None)
    return Cases(direction_tables(questions, lengths=(8,), rerank=0), None)


@pytest.mark.parametrize("located", [False, True])
def test_the_best_and_the_worst_are_shown_once_each(located):
    best, worst = cases(located=located).extremes(4)
    assert best.tolist() == [0, 2]
    # Without metres the one without a right tile is the worst; with metres those farthest off.
    assert worst.tolist() == ([3, 4] if located else [4, 3])
    best, worst = cases(located=located).extremes(100)
    assert sorted([*best, *worst]) == [0, 1, 2, 3, 4]
    assert [len(part) for part in cases(located=located).extremes(0)] == [0, 0]


def test_a_line_names_rank_distance_right_tile_and_answers(tmp_path):
    nowhere = Pictures(str(tmp_path / "queries"), str(tmp_path / "tiles"))
    html = cases(located=True).section(nowhere, 5)
    lines = re.findall(r'<div class="query">.*?</div>', html)
    assert len(lines) == 5
    first = lines[0]
    assert "q0: rank 1 by floats, 0.0 m off" in first
    assert "right: t0" in first
    assert re.search(r'class="true">[^>]*>no picture</span><figcaption>1\. t0', first)
    assert any(
        "q4: not among the gallery" in line and "no right one among the tiles" in line for line in lines
    )
    assert any("q3: rank 4 by floats, 334." in line for line in lines)
