"""The files of a city's point cloud: coordinates, classes, and which points lie around each place."""

from __future__ import annotations

import io
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoloc.core.arrays import Float32Array
from geoloc.synthetic.layouts.render import BLOCK_M
from geoloc.synthetic.layouts.view_images import PointCloud, Writer
from geoloc.synthetic.world.cloud import point_cloud
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import City


def write_cloud(city: City, cloud: PointCloud, write: Writer) -> int:
    """Sample the cloud, write its two files and all index arrays, and return the number of files.

    Convention: columns are x (east), height and z, which grows to the SOUTH (the northing, negated).
    """
    xyz, classes = sample(city, cloud)
    stored = np.stack([xyz[:, 0], xyz[:, 2], -xyz[:, 1]], -1)
    tree = cKDTree(stored[:, [0, 2]])
    for path, x, y in cloud.places:
        # A float32 coordinate may be rounded across the limit: the stored ones decide.
        near = tree.query_ball_point((x, -y), cloud.half_m, p=np.inf, return_sorted=True)
        write(path, npy(np.asarray(near, np.int64)))
    write(cloud.classes, "".join(f"{value}\n" for value in classes.tolist()).encode())
    write(cloud.points, npy(stored))
    return len(cloud.places) + 2


def sample(city: City, cloud: PointCloud) -> tuple[Float32Array, NDArray[np.uint8]]:
    """All points, block by block: east, north, height in city metres float32[P, 3], and classes uint8[P]."""
    points, classes = [np.zeros((0, 3), np.float32)], [np.zeros(0, np.uint8)]
    for area in cloud.areas:
        for bounds in _pieces(area):
            xyz, kind = point_cloud(city, bounds, points_per_m2=cloud.points_per_m2)
            points.append((xyz + np.array([*bounds[:2], 0.0])).astype(np.float32))
            classes.append(kind)
    return np.concatenate(points), np.concatenate(classes)


def _pieces(area: Bounds) -> list[Bounds]:
    """An area cut along the lines of blocks."""
    west, south, east, north = area

    def cuts(low: float, high: float) -> list[float]:
        first, last = int(low // BLOCK_M) + 1, int(np.ceil(high / BLOCK_M))
        return [low, *(BLOCK_M * k for k in range(first, last)), high]

    return [
        (w, s, e, n)
        for s, n in itertools.pairwise(cuts(south, north))
        for w, e in itertools.pairwise(cuts(west, east))
    ]


def npy(values: NDArray[np.generic]) -> bytes:
    """An array of any shape and plain type [...] as the bytes of an `.npy` file, without Python objects."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
