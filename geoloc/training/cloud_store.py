"""Point clouds of training tiles in memory, thinned once, and the changes that every use of a cloud draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from geoloc.core import part_table, storage
from geoloc.core.arrays import Float32Array
from geoloc.core.errors import InputError
from geoloc.core.scratch import scratch_array
from geoloc.geometry.clouds import cloud_rows, crop_cloud, first_inside, place_clouds, sample_cloud
from geoloc.models.orientation_maps import Pose
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import CloudAugmentation
from geoloc.training.augment import of_items

_POOL = 2.5  # points kept for each that the model sees: a turned field covers half of what its turns cover together
_THINNED = 8  # points for each of the pool among which farthest points are searched


def load_clouds(
    uri: str, rows: Mapping[str, int], recipe: Recipe, *, reach_m: float, limit_bytes: int
) -> Float32Array | None:
    """Clouds float32[T, pool, 4] of the tiles named in `rows` (tile_id: row); None for a model without clouds.

    A cloud is cut to what the field can show at any turn within `reach_m`, thinned at random where it is much denser
    than needed, and kept in farthest-point order. Memory: `limit_bytes` at most, beyond that a file on the local disk.
    Raises `InputError` for tiles without points.
    """
    section = recipe.model.cloud
    if section is None:
        return None
    pool = math.ceil(_POOL * section.points)
    clouds: Float32Array = scratch_array((len(rows), pool, 4), np.float32, limit_bytes)
    half_m = math.sqrt(2) * recipe.model.tile_m / 2 + reach_m
    missing = set(rows)
    for table in part_table.iterate(storage.join(uri, "tiles"), kind="tiles", columns=["tile_id", "points"]):
        for batch in table.to_batches(max_chunksize=64):
            for tile_id, points in zip(batch["tile_id"].to_pylist(), batch["points"], strict=True):
                if tile_id in missing and points.is_valid:
                    clouds[rows[tile_id]] = _thinned(points, half_m, pool, rows[tile_id])
                    missing.discard(tile_id)
    if missing:
        raise InputError(
            f"{len(missing):,} tiles of {uri!r} have no points, {min(missing)!r} among them, and the recipe "
            f"{recipe.name!r} sees point clouds; ingest tiles with points (map25d, OSM), or leave model.cloud out.",
            reason="no_points",
        )
    return clouds


def _thinned(points: pa.ListScalar, half_m: float, pool: int, seed: int) -> Float32Array:
    kept = crop_cloud(cloud_rows(points.values.to_numpy(zero_copy_only=False)), half_m)
    if len(kept) > _THINNED * pool:
        chosen = np.random.default_rng(seed).choice(len(kept), _THINNED * pool, replace=False)
        kept = kept[np.sort(chosen)]
    return sample_cloud(kept, pool)


def vary_clouds(
    clouds: torch.Tensor,
    pose: Pose,
    half_m: float,
    points: int,
    recipe: CloudAugmentation | None,
    seeds: torch.Tensor,
) -> torch.Tensor:
    """Clouds float[B, pool, 4] as a model's input float[B, points, 4]: placed, jittered, some points left out.

    `seeds` int64[B] are those of `draw_seeds`.
    """
    placed = place_clouds(
        clouds,
        east_m=pose.east_m,
        north_m=pose.north_m,
        heading_deg=pose.heading_deg,
        scale=pose.scale,
        mirrored=pose.mirrored,
    )
    if recipe is None:
        return first_inside(placed, half_m, points)
    pool = placed.shape[1]
    jitter = recipe.jitter_m * of_items(seeds, (pool, 3), 2, normal=True)
    jitter = jitter.clamp(-recipe.clip_m, recipe.clip_m).to(placed.device)
    low, high = recipe.drop
    drawn = of_items(seeds, (1 + pool,), 3)
    keep = (drawn[:, 1:] >= low + (high - low) * drawn[:, :1]).to(placed.device)
    moved = torch.cat([placed[..., :3] + jitter, placed[..., 3:]], dim=-1)
    return first_inside(moved, half_m, points, keep)
