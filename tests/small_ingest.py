"""A tiny ingest output with a real relation between the views: panoramas are polar images of the tiles."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image

from geoloc.core import part_table, schemas, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.geodesy import LatLon, LocalFrame
from geoloc.geometry.polar import aerial_to_polar
from geoloc.recipe.recipe import Recipe

TINY = """
name: tiny
seed: 3
model:
  tile_m: 32
  tile_px: 32
  panorama_px: [16, 64]
  view: {kind: polar, height_px: 16, width_px: 64}
  backbone: {kind: plain_cnn, widths: [16, 32], strides: [2, 2]}
  aggregation: {kind: column_attention, columns: 16, channels: 4}
  hash: {bits: 64, prefixes: [32, 64]}
training:
  steps: 40
  batch_size: 16
  learning_rate: 0.005
  negative_distance_m: 3
  augmentation: {offset_m: 2}
"""


def encoded(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def blotches(rng: np.random.Generator, side: int) -> npt.NDArray[np.uint8]:
    coarse = rng.integers(0, 255, (side // 6, side // 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def write_ingest(
    uri: str, count: int, *, seed: int = 0, extent_m: float = 40.0, metres_per_pixel: float = 0.5
) -> None:
    """`count` tiles of `extent_m` metres, 50 m apart, each with one panorama up to 2 m from its centre."""
    rng = np.random.default_rng(seed)
    side = round(extent_m / metres_per_pixel)
    frame = LocalFrame(LatLon(-35.3, 149.1))
    tile_rows, query_rows, pair_rows = [], [], []
    for row in range(count):
        image = blotches(rng, side)
        east, north = rng.uniform(-1.4, 1.4, 2)
        polar = aerial_to_polar(
            torch.from_numpy(image).permute(2, 0, 1)[None].float(),
            height_px=16,
            width_px=64,
            radius_px=16 / metres_per_pixel,
            east_px=torch.tensor([east / metres_per_pixel]).float(),
            north_px=torch.tensor([north / metres_per_pixel]).float(),
        )
        panorama = polar[0].permute(1, 2, 0).round().byte().numpy()
        panorama = np.asarray(Image.fromarray(panorama).resize((128, 32)))
        lat, lon = frame.to_degrees(50.0 * (row % 10), 50.0 * (row // 10))
        here = {"lat": float(lat), "lon": float(lon)}
        tile_rows.append(
            here
            | {
                "tile_id": f"t{row:04d}",
                "metres_per_pixel": metres_per_pixel,
                "image": encoded(image),
                "source": "x",
            }
        )
        query_rows.append(
            here
            | {"query_id": f"q{row:04d}", "view": "panorama", "image": encoded(panorama)}
            | {"heading_deg": 0.0, "fov_deg": 360.0}
        )
        pair_rows.append(
            {"query_id": f"q{row:04d}", "tile_id": f"t{row:04d}", "relation": "positive"}
            | {"east_m": float(east), "north_m": float(north)}
        )
    for kind, rows, schema in (
        ("tiles", tile_rows, schemas.TILES),
        ("queries", query_rows, schemas.QUERIES),
        ("pairs", pair_rows, schemas.PAIRS),
    ):
        table = schemas.conform(pa.Table.from_pylist(rows), schema)
        place = storage.join(uri, kind)
        half = max(1, count // 2)
        part_table.write_table(
            place,
            [table[:half], table[half:]],
            kind=kind,
            fingerprint=fingerprint_of([kind, seed, count, extent_m]),
        )


def part_path(table: Path | str, index: int) -> Path:
    """The file of a part of a finished table on local disk."""
    return Path(table) / part_table.read_manifest(str(table)).parts[index].name


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that trains in seconds."""
    return Recipe.from_yaml(TINY)


@pytest.fixture
def ingest() -> Callable[..., None]:
    """`write_ingest`."""
    return write_ingest


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> str:
    """80 pairs."""
    uri = str(tmp_path_factory.mktemp("ingest") / "out")
    write_ingest(uri, 80)
    return uri


@pytest.fixture
def tiny_path(tmp_path: Path) -> str:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return str(path)
