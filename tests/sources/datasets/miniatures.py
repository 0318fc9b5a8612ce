"""Miniatures of the published layouts: a handful of pictures each, named and laid out as the real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from geoloc.sources.datasets import vigor


def picture(path: Path, width: int, height: int, seed: int) -> bytes:
    """A picture whose colours tell it from others; its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(path)
    return path.read_bytes()


def lines(path: Path, rows: list[str], end: str = "\n") -> None:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{row}{end}" for row in rows).encode())


def make_cvusa(root: Path, *, coordinates: bool = True, count: int = 6) -> Path:
    """Rows 1 to 4 are val, the others train; ids count from 3 so that line and id differ."""
    rows = []
    for number in range(3, 3 + count):
        key = f"{number:07d}"
        picture(root / "bingmap" / "19" / f"{key}.jpg", 96, 96, number)
        picture(root / "streetview" / "panos" / f"{key}.jpg", 308, 56, number + 100)
        rows.append(f"bingmap/19/{key}.jpg,streetview/panos/{key}.jpg,streetview/annotations/{key}.png")
    lines(root / "splits" / "val-19zl.csv", rows[:4])
    lines(root / "splits" / "train-19zl.csv", rows[4:])
    if coordinates:
        places = [f"{30 + n},{-90 - n},{30 + n + 0.0001},{-90 - n},{n}" for n in range(1, 3 + count)]
        lines(root / "split_locations" / "all.csv", places)
    return root


CVACT_IDS = [f"{letter * 8}_-cvact0123456" for letter in "abcdef"]
CVACT_UTM = np.array([[690_000.0 + 40 * k, 6_090_000.0 - 30 * k] for k in range(6)])


def make_cvact(root: Path, *, nested: bool = False, cells: bool = False, ending: str = "jpg") -> Path:
    """Ids 1, 3, 5 (counted from 1) are train, 2 and 4 val, 6, 4, 2, 5 the test set, in that order."""
    for folder in ("ANU_data_small", "ANU_data_test"):
        for seed, key in enumerate(CVACT_IDS):
            picture(root / folder / "satview_polish" / f"{key}_satView_polish.{ending}", 96, 96, seed)
            picture(root / folder / "streetview" / f"{key}_grdView.{ending}", 208, 104, seed + 50)
    write_mat(root / "ACT_data.mat", nested=nested, cells=cells)
    return root


def write_mat(path: Path, *, nested: bool = False, cells: bool = False, **other: Any) -> None:
    """`ACT_data.mat` with the splits as structs of column vectors; `nested` puts a second field before the indices."""

    def struct(name: str, rows: list[int]) -> dict[str, Any]:
        column = np.array(rows, dtype=np.float64)[:, None]
        return {"count": float(len(rows)), "inner": {name: column}} if nested else {name: column}

    ids: Any = np.array(CVACT_IDS, dtype=object)[:, None] if cells else np.array(CVACT_IDS)
    content: dict[str, Any] = {
        "panoIds": ids,
        "utm": CVACT_UTM,
        "trainSet": struct("trainInd", [1, 3, 5]),
        "valSet": struct("valInd", [2, 4]),
        "valSetAll": struct("valInd", [6, 4, 2, 5]),
    }
    content.update(other)
    savemat(path, {name: value for name, value in content.items() if value is not None}, do_compression=True)


_STEP_LAT, _STEP_LON = 0.000328, 0.000486
VIGOR_PLACES = {
    "Chicago": (41.88, -87.63),
    "NewYork": (40.75, -73.98),
    "SanFrancisco": (37.77, -122.42),
    "Seattle": (47.6, -122.33),
}


def vigor_satellites(city: str) -> dict[str, tuple[float, float]]:
    """Nine tiles in three rows, from south to north."""
    lat, lon = VIGOR_PLACES[city]
    places = [(lat + row * _STEP_LAT, lon + column * _STEP_LON) for row in range(3) for column in range(3)]
    return {f"satellite_{a:.8f}_{b:.8f}": (float(f"{a:.8f}"), float(f"{b:.8f}")) for a, b in places}


def vigor_lines(city: str, *, corrected: bool, count: int = 4) -> list[str]:
    """Label lines of panoramas around the middle tile; offsets are what the labels' own scale makes of metres."""
    from geoloc.sources.datasets.rows import offsets_m

    places = vigor_satellites(city)
    middle = list(places.values())[4]
    rows = []
    for number in range(count):
        lat, lon = round(middle[0] + 0.00003 * (number + 1), 6), round(middle[1] + 0.00004 * number, 6)
        near = sorted(places, key=lambda name: abs(places[name][0] - lat) + abs(places[name][1] - lon))[:4]
        cells = [f"{city[:3]}pano{number},{lat},{lon},.jpg"]
        for name in near:
            east, north = offsets_m(lat, lon, *places[name])
            scale = vigor.ground_resolution(places[name][0]) if corrected else 0.114
            cells += [
                f"{name}.png",
                f"{np.round(-north / scale, 1):.1f}",
                f"{np.round(-east / scale, 1):.1f}",
            ]
        rows.append(" ".join(cells))
    return rows


def make_vigor(
    root: Path,
    *,
    sample4geo: bool = False,
    labels: tuple[str, ...] = ("original", "corrected"),
    tile_ending: str = "png",
    end: str = "\n",
) -> Path:
    """All four cities, nine tiles and four panoramas each: two for training, two for testing."""
    for seed, city in enumerate(vigor.CITIES):
        ground, above = ("ground", "satellite") if sample4geo else ("panorama", "satellite")
        photos = root / ground / city if sample4geo else root / city / ground
        tiles = root / above / city if sample4geo else root / city / above
        for number, name in enumerate(vigor_satellites(city)):
            picture(tiles / f"{name}.{tile_ending}", 64, 64, 10 * seed + number)
        for number, line in enumerate(vigor_lines(city, corrected=True)):
            picture(photos / line.split()[0], 128, 64, 1000 + 10 * seed + number)
        for kind in labels:
            folder, mark = ("splits__corrected", "__corrected") if kind == "corrected" else ("splits", "")
            rows = vigor_lines(city, corrected=kind == "corrected")
            base = root / folder / city
            lines(base / "satellite_list.txt", [f"{name}.png" for name in vigor_satellites(city)], end)
            lines(base / f"pano_label_balanced{mark}.txt", rows, end)
            lines(base / f"same_area_balanced_train{mark}.txt", rows[:2], end)
            lines(base / f"same_area_balanced_test{mark}.txt", rows[2:], end)
    return root


def make_university(root: Path) -> Path:
    """Buildings 1 and 2 for testing (3 only in the galleries), 11 for training; two masked distractors."""
    views = {"satellite": 1, "drone": 3, "street": 2}
    seed = 0
    for view, count in views.items():
        for building, parts in (
            (11, ["train"]),
            (1, ["query", "gallery"]),
            (2, ["query", "gallery"]),
            (3, ["gallery"]),
        ):
            for part in parts:
                folder = root / "train" / view if part == "train" else root / "test" / f"{part}_{view}"
                for number in range(count):
                    name = f"{building:04d}.jpg" if view == "satellite" else f"image-{number + 1:02d}.jpeg"
                    seed += 1
                    picture(folder / f"{building:04d}" / name, 64, 64, seed)
    (root / "train" / "google" / "0011").mkdir(parents=True)
    picture(root / "test" / "4K_drone" / "0001" / "image-01.jpeg", 128, 72, 900)
    for number in range(2):
        picture(root / "test" / "gallery_satellite_160k" / f"x{number}qZ.jpg", 64, 64, 901 + number)
    picture(root / "test" / "query_drone_160k" / "a1B2.jpeg", 64, 64, 905)
    return root


MAP25D_ORIGIN = (40.7424436, -73.9816155)


def make_map25d(root: Path, *, area: str = "wallstreet5kU", cloud: bool = True, metres: bool = True) -> Path:
    """Five places 60 m apart along a street of Manhattan; a cloud of one point a metre east and north of each."""
    from geoloc.core.geodesy import LatLon, SphericalTransverseMercator

    frame = SphericalTransverseMercator(LatLon(*MAP25D_ORIGIN))
    rows, rows_xy, rows_set, points = [], [], [], []
    for number in range(5):
        east, north = -2_000.0 + 60 * number, -1_500.0 + 40 * number
        lat, lon = (float(value) for value in frame.to_degrees(east, north))
        key, heading = f"pano_{number}-AbC", 30.0 * number
        rows.append(f"{key},{lat!r},{lon!r},{heading},manhattan")
        rows_xy.append(f"{key},{east!r},{-north!r},{heading},manhattan")
        rows_set.append(f"manhattan,{200 - number}")
        picture(root / "jpegs_manhattan_2019" / f"{key}.jpg", 112, 56, number)
        picture(root / "tiles_manhattan_2019" / "z18" / f"{200 - number:05d}.png", 64, 64, 50 + number)
        points += [(east + 1, 10.0 + number, -(north + 2)), (east - 3, 0.0, -(north - 4))]
    lines(root / "csv" / f"{area}.csv", rows)
    lines(root / "csv" / f"{area}_set.csv", rows_set)
    if metres:
        lines(root / "csv" / f"{area}_xy.csv", rows_xy)
    if cloud:
        (root / "manhattan").mkdir(parents=True, exist_ok=True)
        np.save(root / "manhattan" / "manhattanU.npy", np.array(points))
        lines(root / "manhattan" / "manhattanU.csv", [str((4, 13)[k % 2]) for k in range(len(points))])
        (root / f"{area}_idx").mkdir(parents=True, exist_ok=True)
        for number in range(5):
            rows_of = np.array([2 * number, 2 * number + 1], dtype=np.int64)
            np.save(root / f"{area}_idx" / f"pano_{number}-AbC.npy", rows_of)
    return root


def make_xyz(root: Path, zoom: int = 18, px: int = 64) -> Path:
    """A block of two by three tiles of Canberra."""
    for x in (239_626, 239_627):
        for y in (159_500, 159_501, 159_502):
            picture(root / str(zoom) / str(x) / f"{y}.png", px, px, x + y)
    return root
