"""Components summed over blocks against scikit-learn's, and recall after them against a full sort."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES, PROTOCOLS
from geoloc.evaluation.protocol.questions import build_questions
from geoloc.evaluation.ranking.blockwise_scores import scan
from geoloc.evaluation.ranking.pca import ProjectedDistance, fit_projection
from geoloc.evaluation.report.recall_table import direction_tables
from tests.evaluation.small_sets import photos, tiles


def vectors(seed: int, gallery: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.05, 1.0, dim)
    vectors = rng.normal(size=(gallery + 20, dim)) * spread + rng.normal(size=dim)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:20].astype(np.float32), vectors[20:].astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_distances_are_those_after_scikit_learns_components(seed, dimensions):
    queries, gallery = vectors(seed, 60, 12)
    fitted = fit_projection(lambda: np.split(gallery, [7, 31]), dimensions)
    assert fitted.dimensions == dimensions
    reference = PCA(dimensions, svd_solver="full").fit(gallery.astype(np.float64))
    left, right = reference.transform(queries), reference.transform(gallery)
    wanted = np.linalg.norm(left[:, None] - right[None], axis=2)
    found = scan(queries, lambda: [gallery], ProjectedDistance(fitted), k=60)
    # A score is minus half the squared distance.
    np.testing.assert_allclose(-2 * found.scores, np.sort(wanted, axis=1) ** 2, atol=2e-6)


def test_the_map_protocol_is_a_full_sort_after_components():
    rng = np.random.default_rng(4)
    queries, gallery = vectors(4, 200, 150)
    queries = (gallery[:20] + rng.normal(size=(20, 150)) * 0.15).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    codes = np.zeros((200, 1), np.uint8)
    pairs = pa.table(
        {
            "query_id": [f"q{row}" for row in range(20)],
            "tile_id": [f"t{row}" for row in range(20)],
            "relation": ["positive"] * 20,
        }
    )
    protocol = PROTOCOLS["map25d-single-image"]
    sides = photos(queries[:, None], codes[:20, None]), tiles(gallery, codes, cuts=(64, 99))
    questions = build_questions(protocol, PHOTOS_TO_TILES, *sides, pairs, radius_m=25.0)
    table = direction_tables(questions, lengths=(8,), rerank=0).table.rows((1, 5, 10), protocol.top_percent)
    assert table[0].method == "floats, 128 components"
    reference = PCA(128, svd_solver="full").fit(gallery.astype(np.float64))
    left, right = reference.transform(queries), reference.transform(gallery)
    ranks = []
    for row in range(20):
        distance = np.linalg.norm(right - left[row], axis=1)
        ranks.append(np.argsort(distance).tolist().index(row))
    assert 0 < sum(rank < 1 for rank in ranks) < 20
    for k in (1, 5, 10):
        assert table[0].recall[f"R@{k}"] == pytest.approx(100 * sum(rank < k for rank in ranks) / 20)
    # recall[thr] of the authors' list, thr = max(round(N / 100), 1) = 2: the first three answers.
    assert table[0].recall["R@1%"] == pytest.approx(100 * sum(rank <= 2 for rank in ranks) / 20)


def test_fewer_items_than_components_give_as_many_as_there_are():
    _, gallery = vectors(0, 5, 9)
    assert fit_projection(lambda: [gallery], 128).dimensions == 5


def test_a_gallery_without_embeddings_is_refused():
    with pytest.raises(InputError, match="no embeddings to fit components on"):
        fit_projection(lambda: [], 3)
