"""Leaks between training and test: the same id, the same picture, or a photo taken a few metres away."""

from __future__ import annotations

import hashlib

import numpy as np

from geoloc.core import geodesy, part_table, storage
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError

_TABLES = (("queries", "query_id"), ("tiles", "tile_id"))


def check_leaks(evaluated: str, trained: str, *, radius_m: float, shared_area: bool = False) -> list[str]:
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
        known = _ids(theirs, column)
        check_overlap(known, _ids(ours, column), kind)
        found += _check_pictures(ours, theirs, column, kind)
        if kind == "queries" and not shared_area:
            found += _near(_degrees(ours), _degrees(theirs), radius_m)
    return found


def check_overlap(trained: set[str], evaluated: set[str], what: str) -> None:
    """Refuse an evaluation on ids that the model was trained with, with `InputError`."""
    if shared := trained & evaluated:
        raise InputError(
            f"{len(shared)} of {len(evaluated)} {what} of the evaluation were trained on (such as "
            f"{min(shared)!r}); evaluate on a held-out district.",
            reason="train_test_overlap",
        )


def _ids(uri: str, column: str) -> set[str]:
    return set(part_table.read(uri, columns=[column])[column].to_pylist())


def _check_pictures(ours: str, theirs: str, column: str, kind: str) -> list[str]:
    trained = set(_pictures(theirs, column))
    evaluated = _pictures(ours, column)
    shared = sorted(evaluated[digest] for digest in evaluated.keys() & trained)
    if not shared:
        return []
    sentence = (
        f"{len(shared)} pictures of the evaluation's {kind} are, byte for byte, in the training (such as that of "
        f"{shared[0]!r}); evaluate on pictures that the model has not seen."
    )
    if kind == "queries":
        raise InputError(sentence, reason="train_test_pictures")
    return [sentence]


def _pictures(uri: str, column: str) -> dict[bytes, str]:
    """The id of a picture by the SHA-256 of its bytes, one part in memory at a time."""
    found: dict[bytes, str] = {}
    for table in part_table.iterate(uri, columns=[column, "image"]):
        for name, image in zip(table[column].to_pylist(), table["image"], strict=True):
            found.setdefault(hashlib.sha256(image.as_buffer()).digest(), name)
    return found


def _degrees(uri: str) -> tuple[FloatArray, FloatArray]:
    table = part_table.read(uri, columns=["lat", "lon"])
    lat, lon = (table[name].cast("float64").fill_null(float("nan")).to_numpy() for name in ("lat", "lon"))
    known = np.isfinite(lat) & np.isfinite(lon)
    return lat[known], lon[known]


def _near(
    ours: tuple[FloatArray, FloatArray], theirs: tuple[FloatArray, FloatArray], radius_m: float
) -> list[str]:
    """A sentence when photos of the evaluation lie within `radius_m` of photos of the training."""
    if not len(ours[0]) or not len(theirs[0]):
        return []
    from sklearn.neighbors import BallTree

    tree = BallTree(np.radians(np.stack(theirs, axis=1)), metric="haversine")
    nearest = tree.query(np.radians(np.stack(ours, axis=1)), k=1, return_distance=False)[:, 0]
    metres = geodesy.distance_m(*ours, theirs[0][nearest], theirs[1][nearest])
    near = int((metres <= radius_m).sum())
    if not near:
        return []
    return [
        f"{near} of {len(metres)} photos lie within {radius_m:g} m of a photo of the training (the nearest at "
        f"{metres.min():.1f} m): the figures flatter the model; evaluate on a held-out district."
    ]
