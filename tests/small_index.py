"""A small real index for tests: an untrained model, textured tiles around Canberra, and queries of them.

A panorama here is the polar image of its tile, so even untrained weights, shared by both branches, find it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image

from geoloc.core import geodesy, part_table, schemas, storage
from geoloc.core.arrays import Pixels
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import FileEntry, Manifest, ModelEntry
from geoloc.index.format.shard import TILES_SCHEMA, entry_of, write_shard
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.preprocessing import to_unit
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe

ORIGIN = geodesy.LatLon(-35.28, 149.13)
SPACING_M = 100.0
SHARDS = 3


@dataclass(frozen=True)
class SmallIndex:
    """Where everything is, and the truth."""

    index: str
    model: str
    ingested: str
    tile_ids: list[str]
    lat: npt.NDArray[np.float64]
    lon: npt.NDArray[np.float64]
    tiles: list[Pixels]
    panoramas: list[Pixels]


def small_recipe(name: str = "small") -> Recipe:
    """A network of a few thousand weights."""
    return Recipe.model_validate(
        {
            "name": name,
            "model": {
                "tile_px": 64,
                "tile_m": 51.2,
                "panorama_px": [32, 64],
                "view": {"height_px": 32, "width_px": 64},
                "backbone": {"widths": [8, 16], "strides": [2, 2]},
                "aggregation": {"kind": "column_attention", "columns": 16, "channels": 8},
                "hash": {"bits": 128, "prefixes": [64, 128]},
            },
        }
    )


def texture(seed: int, side_px: int = 64) -> Pixels:
    """A picture with structure at several scales, uint8[side, side, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side_px, side_px, 3))
    for cells, weight in ((4, 1.0), (8, 0.7), (16, 0.4)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += weight * np.asarray(
            noise.resize((side_px, side_px), Image.Resampling.BICUBIC), dtype=float
        )
    return np.asarray(np.clip(picture / 2.1, 0, 255), dtype=np.uint8)


def encoded(image: Pixels, kind: str = "PNG") -> bytes:
    """The picture as a file."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind)
    return sink.getvalue()


def make_model(uri: str, recipe: Recipe) -> Encoder:
    """Save an untrained model and open it."""
    torch.manual_seed(7)
    model = GeoLocalizer(recipe.model)
    # Both heads alike: views of the same picture then embed alike, as training would have it.
    model.heads["panorama"].load_state_dict(model.heads["aerial"].state_dict())
    save_model(model, recipe, uri)
    return Encoder.open(uri, device="cpu")


def panorama_of(encoder: Encoder, tile: Pixels) -> Pixels:
    """The polar image of a tile: the panorama that a camera at its centre would match best."""
    with torch.inference_mode():
        polar = encoder._model.convert_view(to_unit(torch.from_numpy(tile[None])))
    values = polar[0].permute(1, 2, 0).numpy() * 255
    return np.asarray(values.round().clip(0, 255), dtype=np.uint8)


def build(
    root: Path, *, count: int = 60, located: bool = True, seed: int = 0, name: str = "small"
) -> SmallIndex:
    """Make tiles, model, index and an ingest output below `root`."""
    encoder = make_model(str(root / "model"), small_recipe(name))
    side = int(np.ceil(np.sqrt(count)))
    east, north = np.divmod(np.arange(count), side)
    lat, lon = geodesy.LocalFrame(ORIGIN).to_degrees(east * SPACING_M, north * SPACING_M)
    tile_ids = [f"tile-{number:04d}" for number in range(count)]
    pictures = [texture(seed * 10_000 + number) for number in range(count)]
    codes = encoder.encode(encoder.prepare(pictures, "aerial"), "aerial")
    table = pa.table({"tile_id": tile_ids, "lat": lat, "lon": lon}, schema=TILES_SCHEMA)
    if not located:
        empty = pa.nulls(count, pa.float64())
        table = table.set_column(1, "lat", empty).set_column(2, "lon", empty)
    write_index(
        root / "index", root / "model", table, codes.code, codes.embedding.astype(np.float16), located
    )
    panoramas = [panorama_of(encoder, picture) for picture in pictures]
    small = SmallIndex(
        str(root / "index"),
        str(root / "model"),
        str(root / "ingested"),
        tile_ids,
        lat,
        lon,
        pictures,
        panoramas,
    )
    write_ingested(small)
    return small


def write_index(
    index: Path,
    model: Path,
    table: pa.Table,
    codes: npt.NDArray[np.uint8],
    embeddings: npt.NDArray[np.float16],
    located: bool,
) -> str:
    """Commit a snapshot of `SHARDS` shards and return its id."""
    card = read_card(str(model))
    entries = []
    build_name = f"build-{storage.sha256_bytes(codes.tobytes())[:16]}"
    for number, rows in enumerate(np.array_split(np.arange(table.num_rows), SHARDS)):
        relative = f"snapshots/{build_name}/shard-{number:05d}"
        directory = index / relative
        directory.mkdir(parents=True, exist_ok=True)
        write_shard(directory, table.take(rows), codes[rows], embeddings[rows])
        entries.append(entry_of(directory, relative, table.take(rows)))
    files = []
    for path in sorted(model.iterdir()):
        storage.copy_file(str(path), str(index / "model" / card.model_id / path.name))
        files.append(
            FileEntry(name=path.name, bytes=path.stat().st_size, sha256=storage.sha256_file(str(path)))
        )
    bounds = [entry.bounds for entry in entries]
    manifest = Manifest(
        fingerprint=build_name,
        parent=None,
        complete=True,
        bits=card.bits,
        embedding_dim=card.embedding_dim,
        count=table.num_rows,
        located=located,
        bounds=bounds[0].union(bounds[1]).union(bounds[2]) if located else None,
        model=ModelEntry(
            directory=f"model/{card.model_id}",
            model_id=card.model_id,
            weights_sha256=card.weights_sha256,
            recipe_name=card.recipe_name,
            bits=card.bits,
            embedding_dim=card.embedding_dim,
            files=files,
        ),
        shards=entries,
    )
    return commit(str(index), manifest, read_head(str(index)))


def write_table(uri: str, kind: str, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    """A finished table of two parts."""
    table = schemas.conform(pa.Table.from_pylist(rows, schema=schema), schema)
    half = (len(rows) + 1) // 2
    part_table.write_table(uri, [table[:half], table[half:]], kind=kind, fingerprint="test")


def write_ingested(small: SmallIndex) -> None:
    """Tables tiles, queries (panoramas, every third of unknown heading, and a few drone photos) and pairs."""
    tile_rows, query_rows, pair_rows = [], [], []
    for number, tile_id in enumerate(small.tile_ids):
        lat, lon = float(small.lat[number]), float(small.lon[number])
        tile_rows.append(
            {
                "tile_id": tile_id,
                "lat": lat,
                "lon": lon,
                "metres_per_pixel": 0.8,
                "image": encoded(small.tiles[number]),
                "source": "test",
            }
        )
        drone = number % 10 == 9
        query_id = f"query-{number:04d}"
        query_rows.append(
            {
                "query_id": query_id,
                "view": "drone" if drone else "panorama",
                "image": encoded(small.tiles[number] if drone else small.panoramas[number]),
                "heading_deg": None if number % 3 == 2 else 0.0,
                "fov_deg": 360.0,
                "lat": lat,
                "lon": lon,
            }
        )
        pair = {
            "query_id": query_id,
            "tile_id": tile_id,
            "relation": "positive",
            "east_m": 0.0,
            "north_m": 0.0,
        }
        pair_rows.append(pair)
    write_table(f"{small.ingested}/tiles", "tiles", schemas.TILES, tile_rows)
    write_table(f"{small.ingested}/queries", "queries", schemas.QUERIES, query_rows)
    write_table(f"{small.ingested}/pairs", "pairs", schemas.PAIRS, pair_rows)


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    """One small index for all tests that only read it."""
    return build(tmp_path_factory.mktemp("small"))
