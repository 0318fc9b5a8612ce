from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import part_table, schemas
from geoloc.synthetic.stages import codes as codes_stage
from geoloc.synthetic.stages.codes import CityCodesConfig, CityCodesInputs, run


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A codes table of 300 random codes of 64 bits, half of them alike."""
    uri = str(tmp_path_factory.mktemp("codes") / "real")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (300, 8), np.uint8)
    codes[::2, :6] = codes[0, :6]
    rows = pa.table({
        "tile_id": [str(k) for k in range(300)], "lat": np.zeros(300), "lon": np.zeros(300),
        "code": [code.tobytes() for code in codes], "model_id": ["m"] * 300,
    })  # fmt: skip
    table = schemas.conform(rows, schemas.codes_schema(8, None))
    part_table.write_table(uri, [table], kind="codes", fingerprint="f", details={"bits": 64})
    return uri


def test_a_codes_table_of_any_size(
    ray_local: None, like: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codes_stage, "_BLOCKS_PER_PART", 1)
    inputs = CityCodesInputs(like=like)
    result = run(CityCodesConfig(count=9000), inputs, str(tmp_path / "many"))
    assert (result.rows, result.parts, result.bits, result.reused) == (9000, 3, 64, False)
    table = part_table.read(str(tmp_path / "many"), kind="codes")
    assert table.schema.names == ["tile_id", "lat", "lon", "cell", "code", "model_id"]
    assert len(set(table["tile_id"].to_pylist())) == 9000
    assert set(table["model_id"].to_pylist()) == {"m"}
    assert run(CityCodesConfig(count=9000), inputs, str(tmp_path / "many")).reused
    monkeypatch.setattr(codes_stage, "_BLOCKS_PER_PART", 2)
    run(CityCodesConfig(count=5000), inputs, str(tmp_path / "few"))
    few = part_table.read(str(tmp_path / "few"))
    assert few.to_pylist() == table.slice(0, 5000).to_pylist()
