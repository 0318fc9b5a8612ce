"""A photo is answered alike by the library, by the service and by an evaluation of its encoded table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from small_index import SmallIndex, encoded

from geoloc import Localizer
from geoloc.core import part_table, schemas
from geoloc.core.part_table import TablePlan
from geoloc.evaluation.ranking.encoded_queries import ENCODED, KIND, EncodedTable
from geoloc.evaluation.report.located_errors import locate_group
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.localization.query_photos import HEADINGS, photo
from geoloc.models.card import read_card
from geoloc.serving.replicas import EncoderReplica
from geoloc.stages.encode_queries import QueryEncoder

PHOTOS = (  # tile, first and last pixel column of its panorama, field of view, heading
    (3, 0, 64, 360.0, None),
    (8, 0, 64, 360.0, 0.0),
    (17, 8, 40, 180.0, None),
    (17, 24, 40, 90.0, None),
    (30, 16, 48, 180.0, 0.0),
    (41, 24, 40, 90.0, 0.0),
)


@pytest.fixture(scope="module")
def localizer(small_index: SmallIndex) -> Localizer:
    return Localizer.open(small_index.index, device="cpu")


def picture(small: SmallIndex, tile: int, first: int, last: int) -> npt.NDArray[np.uint8]:
    """A part of a panorama, twice as large: smaller photos are refused."""
    part = small.panoramas[tile][:, first:last]
    return np.ascontiguousarray(part.repeat(2, axis=0).repeat(2, axis=1))


def encoded_table(small: SmallIndex, root: Path) -> EncodedTable:
    """What the stage makes of the photos, without its workers."""
    rows = [
        {
            "query_id": f"q{number}",
            "view": "panorama" if fov == 360 else "street",
            "image": encoded(picture(small, tile, first, last)),
            "heading_deg": heading,
            "fov_deg": fov,
        }
        for number, (tile, first, last, fov, heading) in enumerate(PHOTOS)
    ]
    queries = str(root / "queries")
    source = schemas.conform(pa.Table.from_pylist(rows, schema=schemas.QUERIES), schemas.QUERIES)
    part = TablePlan(queries, "test").write_part(0, source)
    unit = {"queries": queries, "part": part.model_dump(), "start": 0}
    made = QueryEncoder(small.model, HEADINGS)(unit)
    assert not made.refused
    uri = str(root / "encoded")
    details = {"model_id": read_card(small.model).model_id, "embedding_dim": 128}
    part_table.write_table(
        uri, [schemas.conform(made.rows, ENCODED)], kind=KIND, fingerprint="test", details=details
    )
    return EncodedTable(uri)


def served(localizer: Localizer, small: SmallIndex) -> list[EncodedQueries]:
    """The photos as a replica encodes them, in one batch."""
    replica = object.__new__(EncoderReplica)
    replica._headings = HEADINGS
    batch = []
    for tile, first, last, fov, heading in PHOTOS:
        view = "panorama" if fov == 360 else "street"
        one = photo(picture(small, tile, first, last), view=view, fov_deg=fov, heading_deg=heading)
        ready = localizer.encoder.prepare([one.image], one.view, fov_deg=fov, heading_deg=heading)  # type: ignore[arg-type]
        batch.append((ready[0], one.view, one.heading_deg, one.fov_deg, localizer.encoder, None, 0.0))
    return replica._encode(batch)


def test_library_service_and_evaluation_answer_alike(
    localizer: Localizer, small_index: SmallIndex, tmp_path: Path
) -> None:
    table, locator = encoded_table(small_index, tmp_path), Locator.open(small_index.index)
    evaluated: dict[int, tuple[list[str], npt.NDArray[np.float32], float]] = {}
    for rows, queries in table.groups():
        located = locate_group(locator, queries, rerank=60)
        for place, row in enumerate(rows):
            matches = located.found.matches
            evaluated[int(row)] = (
                list(matches.tile_ids[place, :5]),
                matches.similarity[place, :5],
                float(located.found.heading_deg[place, 0]),
            )
    for number, (queries, (tile, first, last, fov, heading)) in enumerate(
        zip(served(localizer, small_index), PHOTOS, strict=True)
    ):
        fix = localizer.localize(
            picture(small_index, tile, first, last),
            view="panorama" if fov == 360 else "street",
            fov_deg=fov,
            heading_deg=heading,
            rerank=60,
        )
        answer = locator.locate(queries, k=10, rerank=60)[0]
        ids, similarity, heading_deg = evaluated[number]
        for other in (fix, answer):
            # Encoded tables keep float16: equal to a thousandth, so the order may differ among near equals.
            assert other.matches[0].tile_id == ids[0]
            assert [match.similarity for match in other.matches[:5]] == pytest.approx(
                similarity.tolist(), abs=2e-3
            )
            assert other.heading_deg is not None
            assert abs((other.heading_deg - heading_deg + 180) % 360 - 180) < 0.5
