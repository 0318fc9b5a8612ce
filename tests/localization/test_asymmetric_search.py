"""An index without floats, searched by the photo's real numbers: library, evaluation and service answer alike."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from geoloc import Localizer
from geoloc.core import part_table
from geoloc.evaluation.ranking.blockwise_scores import Asymmetric
from geoloc.evaluation.ranking.encoded_queries import ENCODED, KIND, EncodedTable
from geoloc.evaluation.ranking.photos_and_tiles import photo_set, tile_set
from geoloc.evaluation.ranking.rank_all_methods import Methods, asymmetric_name, rank_all_methods
from geoloc.evaluation.ranking.ranks import Question, TruthTable
from geoloc.index.search.kernels.weighted_scan import bit_weights, weighted_distances
from geoloc.localization.locator import Locator
from geoloc.localization.query_photos import encode_photos, photo
from geoloc.serving.answer import Pin, Query
from geoloc.serving.replicas import SearchReplica
from geoloc.stages.encode_queries import QueryEncoder


@pytest.fixture(scope="module")
def localizer(small_index):
    return Localizer.open(small_index.index, device="cpu")


def queries_of(localizer, small_index, count=12, heading_deg=0.0):
    pictures = small_index.panoramas[:count]
    photos = [photo(each, view="panorama", heading_deg=heading_deg) for each in pictures]
    return encode_photos(localizer.encoder, photos, headings=localizer.headings)


def test_matches_are_ordered_by_the_photos_logits(localizer, small_index):
    queries = queries_of(localizer, small_index)
    prepared = localizer.encoder.prepare(small_index.panoramas[:12], "panorama", heading_deg=0.0)
    weights = bit_weights(localizer.encoder.encode(prepared, "panorama").logits)
    np.testing.assert_array_equal(queries.weights[:, 0], weights)
    found = localizer.locator.search(queries, k=60, rerank=0).matches
    assert found.ordered_by == "logits"
    shard_codes = np.concatenate([shard.codes for shard in localizer.locator.snapshot.shards])
    distances = weighted_distances(np.ascontiguousarray(weights), shard_codes)
    for query in range(12):
        ids = found.tile_ids[query]
        keys = [(distances[query, row], name) for row, name in zip(found.rows[query], ids, strict=True)]
        assert keys == sorted(keys)
        assert ids[0] == small_index.tile_ids[query]


def test_bits_with_bits_where_the_user_wants_it(localizer, small_index):
    plain = Localizer(Locator(localizer.locator.snapshot, asymmetric=False), localizer.encoder)
    fix = plain.localize(small_index.panoramas[2], view="panorama", heading_deg=0.0, rerank=0)
    assert fix.ordered_by == "codes"
    assert fix.matches[0].similarity is None
    again = localizer.localize(small_index.panoramas[2], view="panorama", heading_deg=0.0, rerank=0)
    assert again.ordered_by == "logits"
    assert again.matches[0].similarity > 0.5
    floats = localizer.localize(small_index.panoramas[2], view="panorama", heading_deg=0.0)
    assert floats.ordered_by == "embeddings"


def test_an_unknown_heading_is_found_without_floats(localizer, small_index):
    image = np.roll(small_index.panoramas[11], -16, axis=1)
    fix = localizer.localize(image, view="panorama", rerank=0)
    assert fix.ordered_by == "logits"
    assert fix.matches[0].tile_id == small_index.tile_ids[11]
    assert abs((fix.heading_deg - 90.0 + 180) % 360 - 180) < 180 / localizer.headings


@pytest.mark.parametrize("heading_deg", [0.0, None])
def test_library_evaluation_and_service_give_the_same_order(localizer, small_index, tmp_path, heading_deg):
    pictures = small_index.panoramas[:8]
    photos = [photo(each, view="panorama", heading_deg=heading_deg) for each in pictures]
    queries = encode_photos(localizer.encoder, photos, headings=localizer.headings)
    library = localizer.locator.search(queries, k=60, rerank=0).matches

    encoder = QueryEncoder(localizer.locator.snapshot.model_uri, localizer.headings)
    rows = pa.table(
        {
            "query_id": [f"q{number}" for number in range(8)],
            "view": ["panorama"] * 8,
            "heading_deg": pa.array([heading_deg] * 8, pa.float64()),
            "lat": pa.nulls(8, pa.float64()),
            "lon": pa.nulls(8, pa.float64()),
        }
    )
    uri = str(tmp_path / "encoded")
    details = {"model_id": localizer.encoder.model_id, "embedding_dim": localizer.encoder.embedding_dim}
    with part_table.begin(uri, "f") as table:
        part = table.write_part(0, encoder._encode(rows, photos))
        table.publish(kind=KIND, parts=[part], quarantined={}, details=details)
    encoded = EncodedTable(uri)
    assert part_table.read(uri, kind=KIND).schema.names == ENCODED.names
    tiles = tile_set(localizer.locator.snapshot, None)
    photo_items = photo_set(encoded, None, localizer.locator.snapshot.bits)
    nothing = TruthTable(np.empty(0, np.int64), np.empty(0, np.int64))
    ranked = rank_all_methods(
        photo_items, tiles, [Question(nothing, nothing)], Methods((localizer.locator.snapshot.bits,), 0)
    )
    assert asymmetric_name(localizer.locator.snapshot.bits) in ranked
    group = next(iter(photo_items.queries()))
    scores = Asymmetric(group.code.shape[-1])
    for query in range(8):
        table_scores = scores.scores(group.weights[query], np.concatenate(list(tiles.codes()))).max(axis=0)
        ids = np.array(tiles.ids.to_pylist())
        order = sorted(range(len(ids)), key=lambda row: (-table_scores[row], ids[row]))
        assert library.tile_ids[query].tolist() == ids[order][: library.width].tolist()

    replica = SearchReplica(None, rerank=0, min_confidence=0.0)
    pin = Pin.model_construct(
        name="small", uri=small_index.index, snapshot_id=localizer.snapshot_id, proven=True
    )
    for query in range(8):
        answer = asyncio.run(replica.locate(queries.rows(slice(query, query + 1)), pin, Query(k=20)))
        assert answer.fix.ordered_by == "logits"
        served = [match.tile_id for match in answer.fix.matches]
        assert served == library.tile_ids[query, :20].tolist()
