"""Turned and limited photos against stored embeddings: loops over all turns, tiles and columns are the oracle."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_index import SmallIndex, small_recipe

from geoloc import Localizer
from geoloc.core.arrays import Float32Array
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import ANY_HEADING_NAME
from geoloc.index.format.shard import file_entry
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder, write_any_heading
from geoloc.localization.locator import TURNED_SHORTLIST, EncodedQueries, Locator
from geoloc.localization.query_photos import Photo, canvas_columns, encode_photos, photo, turning_columns
from geoloc.models.preprocessing import prepare_panorama
from geoloc.recipe.recipe import Recipe


@pytest.fixture(scope="module")
def localizer(small_index: SmallIndex) -> Localizer:
    return Localizer.open(small_index.index, device="cpu")


def unit(values: npt.NDArray[np.floating]) -> Float32Array:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / length, dtype=np.float32)


def seen_cosine(
    photo_columns: npt.NDArray[np.floating], tile: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]
) -> float:
    """Cosine of [channels, columns] over the columns of a mask, one column after another."""
    product = left = right = 0.0
    for column in np.flatnonzero(mask):
        a, b = photo_columns[:, column], tile[:, column]
        product, left, right = product + float(a @ b), left + float(a @ a), right + float(b @ b)
    return product / math.sqrt(left * right)


@given(
    fov=st.one_of(st.just(360.0), st.floats(1.0, 359.0)),
    heading=st.one_of(st.none(), st.floats(-360.0, 360.0)),
)
@settings(max_examples=40, deadline=None)
def test_lit_columns_are_where_the_prepared_picture_is_not_black(fov: float, heading: float | None) -> None:
    recipe = small_recipe().model
    white = np.full((32, 48, 3), 255, dtype=np.uint8)
    canvas = prepare_panorama(white, recipe, fov_deg=fov, heading_deg=heading)
    share = (canvas[0, :, 0] > 0).reshape(recipe.columns, -1).mean(axis=1)
    got = canvas_columns([fov, 360.0, 90.0], [heading, None, 0.0], recipe.panorama_px[1], recipe.columns)
    if got is None:
        pytest.fail("one of the photos shows 90 degrees")
    assert got[0].any()
    assert got[1].all()
    assert got[2].sum() == recipe.columns // 4
    if share.max() >= 0.5:
        np.testing.assert_array_equal(got[0], share >= 0.5)


def test_whole_circles_have_no_mask_and_some_views_no_columns() -> None:
    assert canvas_columns([360.0, 360.0], [None, 12.0], 64, 16) is None
    recipe = small_recipe().model
    assert turning_columns(recipe, "panorama") == turning_columns(recipe, "drone") == 16
    warped = Recipe.model_validate(
        {"name": "warped", "model": {"view": {"kind": "tps"}, "panorama_px": [64, 256]}}
    ).model
    assert (turning_columns(warped, "panorama"), turning_columns(warped, "drone")) == (warped.columns, 1)
    pooled = Recipe.model_validate({"name": "pooled", "model": {"aggregation": {"kind": "gap"}}}).model
    assert turning_columns(pooled, "panorama") == 1


def photos_of(small: SmallIndex) -> Iterator[list[Photo]]:
    """Groups of photos of unknown heading, of limited view, of both, and from above."""
    width = small.panoramas[0].shape[1]
    for degrees in (360, 180, 90):
        kept = width * degrees // 360
        cut = [np.roll(small.panoramas[row], -5, axis=1)[:, :kept] for row in (3, 41)]
        yield [photo(one, view="panorama", fov_deg=float(degrees)) for one in cut]
    cut = [small.panoramas[row][:, 24:40] for row in (3, 41)]
    yield [photo(one, view="street", fov_deg=90.0, heading_deg=0.0) for one in cut]
    yield [photo(np.rot90(small.tiles[row]).copy(), view="drone") for row in (3, 41)]


def brute_force(
    localizer: Localizer, queries: EncodedQueries, query: int, columns: int
) -> list[tuple[float, str, list[float]]]:
    """(-cosine at the best turn, tile id, cosines at all turns) of all tiles, best first, by loops."""
    found = []
    known = queries.heading_known
    shown_columns = np.ones(columns, bool) if queries.shown is None else queries.shown[query]
    bases = (
        queries.embedding[query, :2]
        .astype(float)
        .reshape(-1, queries.embedding.shape[-1] // columns, columns)
    )
    for shard in localizer.locator.snapshot.shards:
        assert shard.embeddings is not None
        for tile_id, tile in zip(shard.tile_ids.to_pylist(), shard.embeddings, strict=True):
            scores, wide = [], tile.astype(float).reshape(-1, columns)
            for turn in range(1 if known else 2 * columns):  # the encoder gives 32 headings to 16 columns
                shown = np.roll(bases[turn % len(bases)], turn // 2, axis=1)
                scores.append(seen_cosine(shown, wide, np.roll(shown_columns, turn // 2)))
                if (
                    shown_columns.all()
                ):  # tiles are stored as they are: of a whole circle the product is taken
                    scores[-1] *= float(np.linalg.norm(wide))
            found.append((-max(scores), tile_id, scores))
    return sorted(found)


def test_the_locator_finds_what_brute_force_finds(localizer: Localizer, small_index: SmallIndex) -> None:
    columns = localizer.encoder.recipe.model.columns
    hits = []
    for photos in photos_of(small_index):
        queries = encode_photos(localizer.encoder, photos)
        assert queries.columns == columns
        found = localizer.locator.search(queries, k=10, rerank=60)
        for query, row in enumerate((3, 41)):
            wanted = brute_force(localizer, queries, query, columns)
            got = found.matches
            np.testing.assert_allclose(got.similarity[query], [-one[0] for one in wanted[:10]], atol=3e-6)
            assert got.tile_ids[query, 0] == wanted[0][1]
            hits.append(wanted[0][1] == small_index.tile_ids[row])
            if queries.heading_known:
                assert (found.heading_deg[query] == 0.0).all()
                continue
            for place, (cosine, _, scores) in enumerate(wanted[:10]):
                # Refined, it lies beside the best turn, or beside one that is nearly as good.
                turn = round(found.heading_deg[query, place] * 2 * columns / 360)
                beside = [scores[(turn + step) % len(scores)] for step in (-1, 0, 1)]
                assert max(beside) > -cosine - 0.03
    assert np.mean(hits) >= 0.5  # an untrained network knows whole circles and half of the narrow views


def only(queries: EncodedQueries, candidate: int) -> EncodedQueries:
    """The queries with one of their heading candidates."""
    assert queries.weights is not None
    chosen = [candidate]
    return replace(
        queries,
        code=queries.code[:, chosen],
        embedding=queries.embedding[:, chosen],
        weights=queries.weights[:, chosen],
    )


@pytest.mark.parametrize("view", ["panorama", "street", "drone"])
@pytest.mark.parametrize("rerank", [0, 60])
def test_a_compass_searches_the_headings_within_its_error(
    localizer: Localizer, small_index: SmallIndex, view: str, rerank: int
) -> None:
    cut = {"panorama": small_index.panoramas[3], "street": small_index.panoramas[3][:, 16:48]}
    image = cut.get(view, np.rot90(small_index.tiles[3]).copy())
    fov = {"fov_deg": 180.0} if view == "street" else {}
    unknown = encode_photos(localizer.encoder, [photo(image, view=view, **fov)])
    candidates = unknown.code.shape[1]
    everything = localizer.locator.search(unknown, k=60, rerank=rerank)
    for heading, error in ((350.0, 20.0), (90.0, 1.0), (200.0, 180.0)):
        one = photo(image, view=view, heading_deg=heading, heading_error_deg=error, **fov)
        assert "heading_deg" not in one.assumed
        queries = encode_photos(localizer.encoder, [one, one])
        found = localizer.locator.search(queries, k=60, rerank=rerank)
        away = np.abs((found.heading_deg - heading + 180) % 360 - 180)
        assert (
            away.max() <= error + 360 / candidates
        )  # half a step of the candidates, half of the refined peak
        # The best of the candidates in the sector alone, one search after another.
        sector = [
            number
            for number in range(candidates)
            if abs((number * 360 / candidates - heading + 180) % 360 - 180) <= error + 180 / candidates
        ]
        if error == 180.0:
            np.testing.assert_array_equal(found.matches.tile_ids[0], everything.matches.tile_ids[0])
        elif rerank == 0:
            alone = [localizer.locator.search(only(unknown, n), k=60, rerank=0).matches for n in sector]
            best = {
                tile: max(float(m.scores(512)[0][list(m.tile_ids[0]).index(tile)]) for m in alone)
                for tile in alone[0].tile_ids[0]
            }
            np.testing.assert_allclose(
                found.matches.scores(512)[0], sorted(best.values(), reverse=True), atol=1e-6
            )
        np.testing.assert_array_equal(found.matches.tile_ids[0], found.matches.tile_ids[1])


def test_turns_outside_the_sector_are_not_compared(localizer: Localizer, small_index: SmallIndex) -> None:
    image = small_index.panoramas[3]
    queries = encode_photos(
        localizer.encoder, [photo(image, view="panorama", heading_deg=180.0, heading_error_deg=30.0)]
    )
    found = localizer.locator.search(queries, k=10, rerank=60)
    unknown = encode_photos(localizer.encoder, [photo(image, view="panorama")])
    scored = []
    for _, name, scores in brute_force(localizer, unknown, 0, 16):
        turns = [
            score for turn, score in enumerate(scores) if abs(turn * 360 / len(scores) - 180) <= 30 + 180 / 32
        ]
        scored.append((-max(turns), name))
    wanted = sorted(scored)[:10]
    assert list(found.matches.tile_ids[0]) == [name for _, name in wanted]
    np.testing.assert_allclose(found.matches.similarity[0], [-score for score, _ in wanted], atol=3e-6)


def test_a_photo_is_answered_alike_alone_and_among_others(
    localizer: Localizer, small_index: SmallIndex
) -> None:
    cut, whole = small_index.panoramas[17][:, 24:40], small_index.panoramas[17]
    photos = [
        photo(cut, view="street", fov_deg=90.0, heading_deg=0.0),
        photo(whole, view="street", fov_deg=360.0, heading_deg=0.0),
        photo(cut, view="street", fov_deg=90.0, heading_deg=90.0),
    ]
    together = localizer.localize_batch(photos)
    for one, fix in zip(photos, together, strict=True):
        alone = localizer.localize_batch([one])[0]
        assert [match.tile_id for match in fix.matches] == [match.tile_id for match in alone.matches]
        similar = [[match.similarity for match in each.matches] for each in (fix, alone)]
        np.testing.assert_allclose(similar[0], similar[1], atol=1e-5)
        assert fix.heading_deg == alone.heading_deg == one.heading_deg
    product = encode_photos(localizer.encoder, photos[1:2]).embedding[0, 0] @ stored_embedding(localizer, 17)
    assert together[1].matches[0].similarity == pytest.approx(product, abs=1e-6)


def stored_embedding(localizer: Localizer, row: int) -> Float32Array:
    shards = localizer.locator.snapshot.shards
    stored = [shard.embeddings for shard in shards if shard.embeddings is not None]
    return np.concatenate(stored)[row].astype(np.float32)


def test_black_columns_are_not_compared(localizer: Localizer, small_index: SmallIndex) -> None:
    queries = encode_photos(
        localizer.encoder,
        [photo(small_index.panoramas[8][:, 16:48], view="street", fov_deg=180.0, heading_deg=0.0)],
    )
    assert queries.shown is not None
    assert queries.shown.sum() == 8
    noise = np.random.default_rng(0).standard_normal(queries.embedding.shape).astype(np.float32)
    by_column = noise.reshape(1, 1, -1, 16) * ~queries.shown[:, None, None]
    noisy = replace(queries, embedding=queries.embedding + by_column.reshape(queries.embedding.shape))
    one, other = (localizer.locator.search(each, k=60, rerank=60) for each in (queries, noisy))
    np.testing.assert_array_equal(one.matches.tile_ids, other.matches.tile_ids)
    np.testing.assert_allclose(one.matches.similarity, other.matches.similarity, atol=1e-6)


def test_the_shortlist_is_of_the_nearest_codes(localizer: Localizer, small_index: SmallIndex) -> None:
    queries = encode_photos(localizer.encoder, [photo(small_index.panoramas[30], view="panorama")])
    found = localizer.locator.search(queries, k=4, rerank=2).matches
    shards = localizer.locator.snapshot.shards
    codes, ids = (
        np.concatenate([shard.codes for shard in shards]),
        [name for shard in shards for name in shard.tile_ids.to_pylist()],
    )
    away = np.bitwise_count(codes[:, None] ^ queries.code[0][None]).sum(-1).min(1)
    nearest = sorted(zip(away.tolist(), ids, strict=True))[: 2 * TURNED_SHORTLIST]
    distance_of = {name: distance for distance, name in nearest}
    for tile_id, distance in zip(found.tile_ids[0], found.distance_bits[0], strict=True):
        assert distance_of[tile_id] == distance
    wanted = [one for one in brute_force(localizer, queries, 0, 16) if one[1] in distance_of]
    assert [name for _, name, _ in wanted[:4]] == list(found.tile_ids[0])


def test_an_index_with_codes_for_any_heading_answers_by_them(
    localizer: Localizer, small_index: SmallIndex, tmp_path: Path
) -> None:
    index = str(tmp_path / "index")
    shutil.copytree(small_index.index, index)
    manifest = localizer.locator.snapshot.manifest
    entries = []
    for entry in manifest.shards:
        directory = tmp_path / "index" / entry.directory
        write_any_heading(directory, AnyHeadingCoder(512, 16), np.load(directory / "embeddings.npy"))
        files = [*entry.files, file_entry(directory / ANY_HEADING_NAME)]
        entries.append(entry.model_copy(update={"files": files, "any_heading_bits": 512}))
    commit(index, manifest.model_copy(update={"shards": entries}), read_head(index))
    other = Locator.open(index)
    assert other.snapshot.any_heading_bits == 512
    whole = [photo(np.roll(small_index.panoramas[row], -20, axis=1), view="panorama") for row in (3, 17, 41)]
    half = [photo(small_index.panoramas[17][:, 8:40], view="panorama", fov_deg=180.0)]
    queries = encode_photos(localizer.encoder, [*whole, *half])
    # With a shortlist of all tiles both ways see every tile.
    one, two = (each.search(queries, k=5, rerank=60) for each in (localizer.locator, other))
    np.testing.assert_array_equal(one.matches.tile_ids, two.matches.tile_ids)
    np.testing.assert_array_equal(one.matches.distance_bits, two.matches.distance_bits)
    np.testing.assert_allclose(one.heading_deg, two.heading_deg)
    # With a short one its own codes choose, for whole circles.
    found = other.search(queries, k=5, rerank=1).matches
    stored = np.concatenate([shard.any_heading for shard in other.snapshot.shards])
    ids = [name for shard in other.snapshot.shards for name in shard.tile_ids.to_pylist()]
    asked = AnyHeadingCoder(512, 16).codes(queries.embedding[:3, 0])
    for query, code in enumerate(asked):
        near = sorted(zip(np.bitwise_count(stored ^ code).sum(-1).tolist(), ids, strict=True))
        assert set(found.tile_ids[query]) == {name for _, name in near[:TURNED_SHORTLIST]}
    assert found.tile_ids[0, 0] == small_index.tile_ids[3]
    # A limited view is found by the codes of all headings, as in an index without.
    plain = localizer.locator.search(queries, k=5, rerank=1).matches
    np.testing.assert_array_equal(found.tile_ids[3], plain.tile_ids[3])
