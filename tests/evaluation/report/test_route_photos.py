"""Photos of an evaluation as places of a street graph."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES, PROTOCOLS
from geoloc.evaluation.protocol.questions import Questions
from geoloc.evaluation.ranking.photos_and_tiles import PhotoSet
from geoloc.evaluation.ranking.ranks import TruthTable
from geoloc.evaluation.report.route_photos import route_photos


def questions(candidates: int = 1) -> tuple[Questions, np.ndarray, np.ndarray]:
    """Five photos in two groups along a street, the last without a position; tile t of photo p is (p + 2) mod 5."""
    rng = np.random.default_rng(0)
    photos, tiles = rng.normal(size=(2, 5, 3)).astype("f4")
    groups: list[Any] = [
        (rows, SimpleNamespace(embedding=photos[rows][:, None].repeat(candidates, axis=1)))
        for rows in (np.array([1, 3]), np.array([4, 0, 2]))
    ]
    lat = 48.0 + np.array([0.0, 0.0001, 0.0002, 0.0003, np.nan])
    ids = pa.array(list("abcde"))
    queries = PhotoSet("photos", ids, lat, np.full(5, 2.0), pa.nulls(5, pa.string()), groups=groups, bits=8)
    gallery: Any = SimpleNamespace(
        has_embeddings=True, embeddings=lambda: [tiles[:2], tiles[2:]], embeddings_of=lambda rows: tiles[rows]
    )
    right = TruthTable(np.arange(5), (np.arange(5) + 2) % 5)
    protocol = PROTOCOLS["map25d-route"]
    return Questions(protocol, PHOTOS_TO_TILES, queries, gallery, right, None, {}, None), photos, tiles


def test_photos_lie_beside_their_tiles_along_the_street() -> None:
    asked, photos, tiles = questions()
    found = route_photos(asked, np.array([0.0, 370.0, np.nan, 20.0, 5.0]))
    assert found.graph.links.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert found.graph.yaw_deg.tolist()[:2] == [0.0, 10.0]
    assert np.isnan(found.graph.yaw_deg[2])
    # All three components are kept, so distances are those of the embeddings.
    apart = photos[:4, None] - tiles[None, [2, 3, 4, 0]]
    assert found.distances(np.arange(4)) == pytest.approx(np.linalg.norm(apart, axis=-1), abs=1e-4)


def test_photos_with_several_candidates_have_no_one_distance() -> None:
    with pytest.raises(InputError, match="one embedding a photo: give headings"):
        route_photos(questions(candidates=3)[0], np.zeros(5))
