"""Photos that are answered together get the answers that each gets alone."""

import dataclasses

import numpy as np
import pytest

from geoloc import Localizer
from geoloc.core.errors import QueryError
from geoloc.index.search.region import circle
from geoloc.localization.encoded_queries import EncodedQueries
from geoloc.localization.query_photos import encode_photos, photo
from geoloc.serving.answer import Query
from geoloc.serving.search_batch import AnswerSettings, Asked, Located, locate_together

SETTINGS = AnswerSettings(rerank=20, min_confidence=0.0, uncalibrated=True)


@pytest.fixture(scope="module")
def localizer(small_index):
    return Localizer.open(small_index.index, device="cpu")


@pytest.fixture(scope="module")
def encoded(localizer, small_index):
    """Four photos of known heading, three of unknown heading and two of a limited view, one by one."""

    def one(number, **facts):
        picture = small_index.panoramas[number]
        if facts.get("view") == "street":
            picture = np.ascontiguousarray(picture[:, : picture.shape[1] // 3])
        return encode_photos(
            localizer.encoder, [photo(picture, **{"view": "panorama"} | facts)], headings=localizer.headings
        )

    return [
        *(one(number, heading_deg=0.0) for number in range(4)),
        *(one(number) for number in range(4, 7)),
        *(one(number, view="street", fov_deg=120.0, heading_deg=0.0) for number in (7, 8)),
    ]


def asked_of(localizer, encoded, query=None):
    return [Asked(localizer.locator, one, query or Query(k=7), 0.0) for one in encoded]


def test_together_as_alone(localizer, encoded):
    asked = asked_of(localizer, encoded)
    alone = [locate_together([one], SETTINGS)[0] for one in asked]
    mixed = [asked[number] for number in (4, 0, 7, 1, 5, 2, 8, 3, 6)]  # kinds lie between each other
    together = locate_together(mixed, SETTINGS)
    for number, found in zip((4, 0, 7, 1, 5, 2, 8, 3, 6), together, strict=True):
        assert isinstance(found, Located)
        assert found.fix == alone[number].fix
        assert len(found.fix.matches) == 7


def test_each_gets_what_it_asked_for(localizer, encoded, small_index):
    here = circle(float(small_index.lat[3]), float(small_index.lon[3]), 1.0)
    questions = [Query(k=3), Query(k=9), Query(k=3, rerank=0), Query(k=5, region=here)]
    asked = [
        Asked(localizer.locator, one, query, 0.0) for one, query in zip(encoded[:4], questions, strict=True)
    ]
    answers = [found.fix for found in locate_together(asked, SETTINGS)]
    assert [len(fix.matches) for fix in answers] == [3, 9, 3, 1]
    assert [fix.ordered_by for fix in answers] == ["embeddings", "embeddings", "logits", "embeddings"]
    assert answers[3].matches[0].tile_id == small_index.tile_ids[3]


def test_a_refused_question_leaves_the_others_alone(localizer, encoded):
    asked = asked_of(localizer, encoded[:3])
    asked[1] = dataclasses.replace(asked[1], query=Query(k=5, rerank=-1))
    first, refused, last = locate_together(asked, SETTINGS)
    assert isinstance(refused, QueryError)
    assert refused.reason == "rerank_out_of_range"
    assert isinstance(first, Located)
    assert isinstance(last, Located)


def test_queries_of_two_kinds_are_not_joined(encoded):
    joined = EncodedQueries.joined(encoded[:4])
    assert len(joined) == 4
    np.testing.assert_array_equal(joined.rows(slice(2, 3)).code, encoded[2].code)
    np.testing.assert_array_equal(joined.rows(slice(2, 3)).weights, encoded[2].weights)
    with pytest.raises(QueryError, match="not of one kind"):
        EncodedQueries.joined([encoded[0], encoded[4]])
