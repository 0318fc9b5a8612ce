from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyproj import Transformer

from geoloc.core.errors import ArtifactError, InputError
from geoloc.sources.datasets import registry
from geoloc.sources.datasets.rows import Plan
from tests.sources.datasets.miniatures import CVACT_IDS, CVACT_UTM, make_cvact, write_mat


def plan(root: Path, split: str) -> Plan:
    dataset = registry.find("cvact")
    return dataset.plan(dataset.request(str(root), split))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("cells", [False, True])
def test_indices_count_from_one_in_both_nestings_and_the_order_is_the_files(
    tmp_path: Path, nested: bool, cells: bool
) -> None:
    make_cvact(tmp_path, nested=nested, cells=cells)
    wanted = {"train": [0, 2, 4], "val": [1, 3], "test": [5, 3, 1, 4]}
    for split, rows in wanted.items():
        made = plan(tmp_path, split)
        assert [query.query_id for query in made.queries] == [CVACT_IDS[row] for row in rows]
        assert [tile.tile_id for tile in made.tiles] == [CVACT_IDS[row] for row in rows]
        folder = "ANU_data_test" if split == "test" else "ANU_data_small"
        assert all(f"/{folder}/streetview/" in query.picture.uri for query in made.queries)
    assert plan(tmp_path, "val").protocol == "cvact-val"
    assert plan(tmp_path, "test").protocol == "cvact-test-5m"


def test_positions_are_those_of_utm_zone_55_south(tmp_path: Path) -> None:
    made = plan(make_cvact(tmp_path), "test")
    back = Transformer.from_crs("EPSG:4326", "EPSG:32755", always_xy=True)
    east, north = back.transform([query.lon for query in made.queries], [query.lat for query in made.queries])
    assert np.allclose(np.stack([east, north], axis=1), CVACT_UTM[[5, 3, 1, 4]], atol=1e-3)
    assert all((pair.east_m, pair.north_m) == (0.0, 0.0) for pair in made.pairs)
    assert 0.11 < made.tiles[0].metres_per_pixel < 0.13


def test_missing_pictures_are_counted_and_prepared_pngs_are_found(tmp_path: Path) -> None:
    make_cvact(tmp_path, ending="png")
    key = CVACT_IDS[3]
    (tmp_path / "ANU_data_small" / "streetview" / f"{key}_grdView.png").unlink()
    made = plan(tmp_path, "val")
    assert [row.key for row in made.refused_queries] == [key]
    assert len(made.tiles) == 2
    assert made.findings[0] == "cvact val: 0 tiles and 1 panoramas that ACT_data.mat lists are not there."
    assert "lists 2 tiles, published are 8,884" in made.findings[1]


def test_a_broken_mat_file_is_one_sentence(tmp_path: Path) -> None:
    make_cvact(tmp_path)
    path = tmp_path / "ACT_data.mat"
    whole = path.read_bytes()

    def sentence(data: bytes | None = None, **fields: object) -> str:
        if data is None:
            write_mat(path, **fields)  # type: ignore[arg-type]
        else:
            path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            plan(tmp_path, "val")
        assert str(caught.value).startswith(f"'{path}' ")
        assert caught.value.reason == "bad_annotation"
        return str(caught.value)

    assert "it is empty (0 bytes)" in sentence(b"")
    for share in (0.1, 0.4, 0.7, 0.95):
        assert "cut off" in sentence(whole[: int(len(whole) * share)])
    assert "cut off or no MATLAB file" in sentence(b"this is a text, not a matrix" * 20)
    assert "MATLAB 7.3" in sentence(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + b"\0" * 400
    )
    assert "it has no field 'utm'" in sentence(utm=None)
    assert "it has no field 'valSet'" in sentence(valSet=None)
    assert "utm has the shape (2, 6) for 6 panoIds" in sentence(utm=CVACT_UTM.T.copy())
    assert "far from Canberra; easting comes before northing" in sentence(utm=CVACT_UTM[:, ::-1].copy())
    assert "valSet.valInd has values from 0 to 4; rows count from 1 to 6" in sentence(
        valSet={"valInd": np.array([[0.0], [4.0]])}
    )
    assert "valSet.valInd has values from 1.5 to 4" in sentence(valSet={"valInd": np.array([[1.5], [4.0]])})
    assert "valSet holds no valInd" in sentence(valSet={"name": "none"})


def test_what_is_not_there_is_said_with_the_places_and_the_layout(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"ACT_data.mat of CVACT is missing; it was looked for at .*ANU_data_small"
    ):
        plan(tmp_path, "val")
    write_mat(tmp_path / "ACT_data.mat")
    with pytest.raises(
        ArtifactError, match=r"every satellite tile of CVACT's test split is missing.*ANU_data_test"
    ):
        plan(tmp_path, "test")
