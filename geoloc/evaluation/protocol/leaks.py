"""Leaks between training and test: the same id, the same picture, or a photo taken a few metres away.

Both sides are compared in partitions: rows of one id, of one picture or of one place on the map come into the same
partition, and each partition is compared by itself. So nobody holds a table, and the partitions can be made and
compared by tasks (`Shuffle`). A partition has about `_ROWS_PER_PARTITION` rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from geoloc.core import geodesy, part_table, storage
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.core.part_table import Part

_TABLES = (("queries", "query_id"), ("tiles", "tile_id"))
_ROWS_PER_PARTITION = 1_000_000
_PARTS_PER_TASK = 64
_METRES_PER_DEGREE = 110_000.0
_MARGIN = 1.02  # more than the ellipsoid differs from the sphere
_CELL_DEG = 0.02

# shuffle(split, tasks, merge, partitions): `split(*task)` gives a table for each partition, `merge` takes the tables of
# one partition in the order of the tasks; the merged results, partition by partition.
Shuffle = Callable[
    [Callable[..., Sequence[pa.Table]], Sequence[tuple[Any, ...]], Callable[[Sequence[pa.Table]], Any], int],
    Sequence[Any],
]


class Overlap(NamedTuple):
    """Distinct keys that both sides have, those of the evaluation, and the first id of a shared key."""

    shared: int
    evaluated: int
    example: str | None


class Nearness(NamedTuple):
    """Photos of the evaluation that have a position, those near a photo of the training, and the nearest in metres."""

    located: int
    near: int
    nearest_m: float


def shuffle_here(
    split: Callable[..., Sequence[pa.Table]],
    tasks: Sequence[tuple[Any, ...]],
    merge: Callable[[Sequence[pa.Table]], Any],
    partitions: int,
) -> Sequence[Any]:
    """A `Shuffle` in this process."""
    made = [split(*task) for task in tasks]
    return [merge([tables[partition] for tables in made]) for partition in range(partitions)]


def check_leaks(
    evaluated: str,
    trained: str,
    *,
    radius_m: float,
    shared_area: bool = False,
    shuffle: Shuffle = shuffle_here,
) -> list[str]:
    """Compare two ingest outputs; returns warnings about what is only suspicious.

    Refuses with `InputError` ids and photos that are in both. Warns about tiles with the same picture (two pieces of
    open water may be alike) and about photos within `radius_m` metres of a training photo. With `shared_area`
    (training and test share their tiles by design) only ids and pictures of photos are compared.
    """
    found = []
    for kind, column in _TABLES[:1] if shared_area else _TABLES:
        ours, theirs = storage.join(evaluated, kind), storage.join(trained, kind)
        if not all(storage.exists(storage.join(uri, part_table.MANIFEST_NAME)) for uri in (ours, theirs)):
            continue
        work, partitions = _tasks(ours, theirs)
        _refuse_ids(_overlap(shuffle(split_keys, _with(work, column, False), merge_keys, partitions)), kind)
        pictures = shuffle(split_keys, _with(work, column, True), merge_keys, partitions)
        found += _shared_pictures(_overlap(pictures), kind)
        if kind == "queries" and not shared_area:
            merge = partial(merge_places, radius_m=radius_m)
            near = shuffle(split_places, _with(work, radius_m), merge, partitions)
            found += _near(near, radius_m)
    return found


_Work = tuple[str, Sequence[Part], bool, int]  # table, parts, whether they are the evaluation's, partitions


def _tasks(ours: str, theirs: str) -> tuple[list[_Work], int]:
    manifests = [(uri, mine, part_table.read_manifest(uri)) for uri, mine in ((ours, True), (theirs, False))]
    partitions = -(-sum(manifest.rows for _, _, manifest in manifests) // _ROWS_PER_PARTITION) or 1
    work: list[_Work] = [
        (uri, manifest.parts[start : start + _PARTS_PER_TASK], mine, partitions)
        for uri, mine, manifest in manifests
        for start in range(0, len(manifest.parts), _PARTS_PER_TASK)
    ]
    return work, partitions


def _with(work: Sequence[_Work], *more: Any) -> list[tuple[Any, ...]]:
    return [(*each, *more) for each in work]


def split_keys(
    uri: str, parts: Sequence[Part], ours: bool, partitions: int, column: str, pictures: bool
) -> list[pa.Table]:
    """Rows (key, id, ours) of some parts by partition; the key is a hash of the id, or of the picture's bytes."""
    keys: list[list[bytes]] = [[] for _ in range(partitions)]
    names: list[list[str]] = [[] for _ in range(partitions)]
    for part in parts:
        table = part_table.read_columns(uri, part, [column, "image"] if pictures else [column])
        ids = table[column].to_pylist()
        hashed = (
            (image.as_buffer() for image in table["image"]) if pictures else (one.encode() for one in ids)
        )
        for name, content in zip(ids, hashed, strict=True):
            key = hashlib.sha256(content).digest()
            partition = int.from_bytes(key[:8], "little") % partitions
            keys[partition].append(key)
            names[partition].append(name)
    return [
        pa.table(
            {
                "key": pa.array(own, pa.binary(32)),
                "id": pa.array(own_names, pa.string()),
                "ours": pa.array(np.full(len(own), ours)),
            }
        )
        for own, own_names in zip(keys, names, strict=True)
    ]


def merge_keys(tables: Sequence[pa.Table]) -> Overlap:
    """What both sides have of one partition; of several ids with one key the first counts."""
    table = pa.concat_tables(tables)
    trained = set(table.filter(pa.compute.invert(table["ours"]))["key"].to_pylist())
    evaluated: dict[bytes, str] = {}
    mine = table.filter(table["ours"])
    for key, name in zip(mine["key"].to_pylist(), mine["id"].to_pylist(), strict=True):
        evaluated.setdefault(key, name)
    shared = [evaluated[key] for key in evaluated.keys() & trained]
    return Overlap(len(shared), len(evaluated), min(shared, default=None))


def _overlap(parts: Sequence[Overlap]) -> Overlap:
    examples = [part.example for part in parts if part.example is not None]
    return Overlap(
        sum(part.shared for part in parts),
        sum(part.evaluated for part in parts),
        min(examples, default=None),
    )


def _refuse_ids(overlap: Overlap, what: str) -> None:
    """Refuse an evaluation on ids that the model was trained with, with `InputError`."""
    if overlap.shared:
        raise InputError(
            f"{overlap.shared} of {overlap.evaluated} {what} of the evaluation were trained on (such as "
            f"{overlap.example!r}); evaluate on a held-out district.",
            reason="train_test_overlap",
        )


def _shared_pictures(overlap: Overlap, kind: str) -> list[str]:
    if not overlap.shared:
        return []
    sentence = (
        f"{overlap.shared} pictures of the evaluation's {kind} are, byte for byte, in the training (such as that of "
        f"{overlap.example!r}); evaluate on pictures that the model has not seen."
    )
    if kind == "queries":
        raise InputError(sentence, reason="train_test_pictures")
    return [sentence]


def split_places(
    uri: str, parts: Sequence[Part], ours: bool, partitions: int, radius_m: float
) -> list[pa.Table]:
    """Positions (lat, lon, ours) of some parts by partition of the map; those without are left out.

    Photos of the training go into every cell that they are near to, those of the evaluation into their own.
    """
    places: list[list[FloatArray]] = [[] for _ in range(partitions)]
    for part in parts:
        table = part_table.read_columns(uri, part, ["lat", "lon"])
        lat, lon = (table[name].cast("float64").fill_null(float("nan")).to_numpy() for name in ("lat", "lon"))
        known = np.isfinite(lat) & np.isfinite(lon)
        where = np.stack([lat[known], lon[known]], axis=1)
        row, cell = map_cells(where[:, 0], where[:, 1], radius_m, around=not ours)
        partition = cell % partitions
        for number in np.unique(partition):
            places[number].append(where[row[partition == number]])
    return [_places_table(np.concatenate([np.empty((0, 2)), *own]), ours) for own in places]


def _places_table(where: FloatArray, ours: bool) -> pa.Table:
    return pa.table({"lat": where[:, 0], "lon": where[:, 1], "ours": np.full(len(where), ours)})


def map_cells(
    lat: FloatArray, lon: FloatArray, radius_m: float, *, around: bool
) -> tuple[IntArray, IntArray]:
    """(row of the point, number of a cell) int64[M]: the cell of each point [N], or all that it is near to (`around`).

    Cells are bands of latitude, cut into pieces at least as wide as the band, and wider than twice the radius.
    """
    margin = _MARGIN * radius_m / _METRES_PER_DEGREE
    size = max(_CELL_DEG, 4 * margin)
    lon_margin = margin / np.maximum(np.cos(np.radians(np.minimum(np.abs(lat) + margin, 90.0))), 1e-12)
    steps = ((-1, 0, 1), (-1, 0, 1)) if around else ((0,), (0,))
    numbers = []
    for down in steps[0]:
        band = np.floor((np.clip(lat + down * margin, -90.0, 90.0) + 90.0) / size).astype(np.int64)
        furthest = np.minimum(np.maximum(np.abs(band * size - 90.0), np.abs((band + 1) * size - 90.0)), 90.0)
        pieces = np.maximum(1, np.floor(360.0 * np.cos(np.radians(furthest)) / size)).astype(np.int64)
        for east in steps[1]:
            turn = ((lon + east * np.minimum(lon_margin, 180.0) + 180.0) / 360.0) % 1.0
            numbers.append(band * 2**32 + np.minimum((turn * pieces).astype(np.int64), pieces - 1))
    rows = np.tile(np.arange(len(lat), dtype=np.int64), len(numbers))
    unique = np.unique(np.stack([rows, np.concatenate(numbers)], axis=1), axis=0)
    # Neighbours in a row of cells shall not share a partition for ever: mixed, and never negative.
    mixed = unique[:, 1] * np.int64(0x9E3779B1) >> np.int64(7)
    return unique[:, 0], mixed & np.int64(2**62 - 1)


def merge_places(tables: Sequence[pa.Table], radius_m: float) -> Nearness:
    """How many photos of the evaluation of one partition lie near one of the training."""
    table = pa.concat_tables(tables)
    own = np.asarray(table["ours"].to_numpy())
    where = np.stack([table["lat"].to_numpy(), table["lon"].to_numpy()], axis=1)
    ours, theirs = where[own], where[~own]
    if not len(ours) or not len(theirs):
        return Nearness(len(ours), 0, np.inf)
    from sklearn.neighbors import BallTree

    tree = BallTree(np.radians(theirs), metric="haversine")
    nearest = tree.query(np.radians(ours), k=1, return_distance=False)[:, 0]
    metres = geodesy.distance_m(*ours.T, *theirs[nearest].T)
    return Nearness(len(ours), int((metres <= radius_m).sum()), float(metres.min()))


def _near(parts: Sequence[Nearness], radius_m: float) -> list[str]:
    """A sentence when photos of the evaluation lie within `radius_m` of photos of the training."""
    near = sum(part.near for part in parts)
    if not near:
        return []
    return [
        f"{near} of {sum(part.located for part in parts)} photos lie within {radius_m:g} m of a photo of the training "
        f"(the nearest at {min(part.nearest_m for part in parts):.1f} m): the figures flatter the model; evaluate on a "
        "held-out district."
    ]
