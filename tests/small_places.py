"""A tiny ingest output of places: a tile each, drone photos that are turned cuts of it, and street photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from geoloc.core import part_table, schemas, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.recipe.recipe import Recipe
from tests.small_ingest import blotches, encoded

TINY_PLACES = """
name: tiny-places
seed: 3
model:
  tile_m: 32
  tile_px: 32
  panorama_px: [32, 32]
  street: whole
  view: {kind: none}
  backbone: {kind: plain_cnn, widths: [16, 32], strides: [2, 2]}
  aggregation: {kind: gem, learnt: channels}
  projection: {channels: 16, shared: true, norm: batch}
  branches: {street: street, panorama: street}
  shared_weights: false
  hash: {bits: 64, prefixes: [32, 64]}
loss:
  places: [{kind: instance, dropout: 0.0}, {kind: her}]
training:
  steps: 40
  batch_size: 8
  learning_rate: 0.005
  places: {drone: 2, street: 1, turn_deg: 0, shift: 0.02}
  augmentation: {flip: false, photometric: 0.5}
"""


def tiny_places(**training: Any) -> Recipe:
    """A recipe that trains by places in seconds, with other values in `training`."""
    return Recipe.from_yaml(TINY_PLACES).with_overrides(**training)


def write_places(uri: str, count: int, *, drones: int = 3, streets: int = 2, seed: int = 0) -> None:
    """`count` places of 32 m with a tile, `drones` and `streets` photos each; one of junk, and one without a photo."""
    rng = np.random.default_rng(seed)
    tiles: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    for row in range(count + 1):
        image = blotches(rng, 48)
        place = f"{row:04d}"
        tiles.append({
            "tile_id": f"t{place}", "metres_per_pixel": 32 / 48, "image": encoded(image),
            "source": "x", "place_id": place,
        })  # fmt: skip
        views = [("drone", k) for k in range(drones)] + [("street", k) for k in range(streets)]
        for view, number in views if row < count else []:
            bright = np.clip(image.astype(np.int64) + rng.integers(-30, 30), 0, 255).astype(np.uint8)
            queries.append({
                "query_id": f"{view}/{place}/{number}", "view": view, "fov_deg": 60.0, "place_id": place,
                "heading_deg": 10.0 * number if view == "drone" else None,
                "image": encoded(np.asarray(Image.fromarray(bright).resize((40, 40)))),
            })  # fmt: skip
    queries.append(queries[0] | {"query_id": "junk", "place_id": "-1"})
    for kind, rows, schema in (("tiles", tiles, schemas.TILES), ("queries", queries, schemas.QUERIES)):
        table = schemas.conform(pa.Table.from_pylist(rows), schema)
        part_table.write_table(
            storage.join(uri, kind),
            [table],
            kind=kind,
            fingerprint=fingerprint_of([kind, seed, count, drones, streets]),
        )
    pairs = [
        {"query_id": q["query_id"], "tile_id": f"t{q['place_id']}", "relation": "positive"}
        | {"east_m": 0.0, "north_m": 0.0}
        for q in queries
        if q["place_id"] != "-1"
    ]  # fmt: skip
    part_table.write_table(
        storage.join(uri, "pairs"),
        [schemas.conform(pa.Table.from_pylist(pairs), schemas.PAIRS)],
        kind="pairs",
        fingerprint=fingerprint_of(["pairs", seed, count]),
    )
