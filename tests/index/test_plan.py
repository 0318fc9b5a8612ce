from __future__ import annotations

import functools
import itertools
import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc import geodesy, parts
from geoloc.errors import ArtifactError, InputError, ModelMismatch
from geoloc.index.plan import plan_shards, scan_part

from .building import random_tiles


def scan(count: int, seed: int = 0, *, located: bool = True) -> pa.Table:
    tiles = random_tiles(count, bits=64, dim=None, seed=seed, located=located)
    cells = pa.array(geodesy.cells(tiles.lat, tiles.lon)) if located else pa.nulls(count, pa.int64())
    return pa.table({"tile_id": pa.array(tiles.ids, pa.large_string()), "cell": cells})


def members(plans, scans) -> list[list[str]]:  # type: ignore[no-untyped-def]
    """The ids of each planned shard, in the order of its rows."""
    found = []
    for plan in plans:
        ids = np.full(plan.count, None, dtype=object)
        for piece in plan.pieces:
            ids[piece.positions] = scans[piece.part]["tile_id"].take(pa.array(piece.rows)).to_pylist()
        found.append(ids.tolist())
    return found


@settings(deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 9),
    st.sampled_from(["space", "even"]),
    st.integers(0, 99),
    st.integers(1, 4),
)
def test_every_tile_has_one_place_and_shards_are_balanced(
    count: int, shards: int, partition: str, seed: int, pieces: int
) -> None:
    table = scan(count, seed)
    scans = [table.slice(start, -(-count // pieces)) for start in range(0, count, -(-count // pieces))]
    plans = plan_shards(scans, shards, partition)
    found = members(plans, scans)
    assert len(plans) == min(shards, count)
    assert sorted(functools.reduce(operator.iadd, found, [])) == sorted(table["tile_id"].to_pylist())
    assert all(ids == sorted(ids, key=str.encode) for ids in found)
    sizes = [len(ids) for ids in found]
    assert max(sizes) - min(sizes) <= 1
    shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(count)))
    assert members(plan_shards([shuffled], shards, partition), [shuffled]) == found


def test_space_cuts_the_curve_of_the_cells() -> None:
    table = scan(400)
    cell_of = dict(zip(table["tile_id"].to_pylist(), table["cell"].to_pylist(), strict=True))
    ranges = [
        (min(cell_of[name] for name in ids), max(cell_of[name] for name in ids))
        for ids in members(plan_shards([table], 5, "space"), [table])
    ]
    assert all(last <= first for (_, last), (first, _) in itertools.pairwise(ranges))


def test_tiles_without_coordinates_are_dealt_out() -> None:
    table = scan(10, located=False)
    assert [plan.count for plan in plan_shards([table], 3, "space")] == [4, 3, 3]


def test_an_id_that_occurs_twice_is_named() -> None:
    table = scan(10)
    name = table["tile_id"][3].as_py()
    with pytest.raises(ArtifactError, match=f"tile id '{name}' appears more than once"):
        plan_shards([table, table.slice(3, 1)], 2, "space")


def test_parts_with_and_without_coordinates_do_not_mix() -> None:
    with pytest.raises(InputError, match="has no coordinates while others have"):
        plan_shards(
            [
                scan(5),
                scan(5, 1, located=False).set_column(
                    0, "tile_id", pa.array(list("vwxyz")).cast("large_string")
                ),
            ],
            2,
            "space",
        )


def codes_part(uri: str, lat: list[float | None], model_id: str = "m") -> parts.Part:
    count = len(lat)
    table = pa.table(
        {
            "tile_id": [f"t{number}" for number in range(count)],
            "lat": pa.array(lat, pa.float64()),
            "lon": pa.array([None if value is None else 149.0 for value in lat], pa.float64()),
            "cell": pa.nulls(count, pa.int64()),
            "model_id": [model_id] * count,
        }
    )
    return parts.write_part(uri, 0, table)


def test_cells_that_are_missing_are_computed(index_uri: str) -> None:
    table = scan_part(index_uri, codes_part(index_uri, [-35.0, -35.1]), "m")
    assert table["cell"].to_pylist() == geodesy.cells([-35.0, -35.1], [149.0, 149.0]).tolist()


def test_a_tile_that_alone_lacks_coordinates_is_named(index_uri: str) -> None:
    with pytest.raises(InputError, match="tile 't1' has no coordinates while others have"):
        scan_part(index_uri, codes_part(index_uri, [-35.0, None]), "m")


def test_codes_of_another_model_are_refused(index_uri: str) -> None:
    with pytest.raises(ModelMismatch, match="were made by the model 'm', not by 'other'"):
        scan_part(index_uri, codes_part(index_uri, [-35.0]), "other")
