"""A small place for tests of ingest: two sheets and photos on them, with every kind of bad row on demand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.sources.sheet_files import painted, sheet_around, smooth

LAT, LON = 59.0, 24.0


def make_sheets(folder: Path, count: int = 2) -> str:
    """Sheets of 170 m side by side; the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        transform, size = sheet_around(LAT, LON + 0.00295 * index, "EPSG:3301", 170.0, 0.5)
        painted(folder / f"sheet_{index}.tif", smooth, transform, size, "EPSG:3301")
    return str(folder / "*.tif")


def make_photos(folder: Path, count: int, *, bad: bool = False) -> str:
    """`count` good photos along a street; with `bad`, one row of every kind that is refused."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    lines = ["id,photo,lat,lon,heading_deg"]
    for index in range(count):
        name = f"p{index:03d}.jpg"
        Image.fromarray(rng.integers(0, 255, (32, 128, 3), dtype=np.uint8)).save(folder / "photos" / name)
        lines.append(f"q{index:03d},{name},{LAT + 0.00001 * index:.6f},{LON},{index % 360}")
    if bad:
        lines += _bad_rows(folder / "photos")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def _bad_rows(folder: Path) -> list[str]:
    whole = (folder / "p000.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is a text")
    Image.new("RGB", (40, 20)).save(folder / "small.jpg")
    Image.new("RGB", (64, 64)).save(folder / "square.jpg")
    names = ("truncated", "empty", "text", "small", "square", "absent")
    return [
        *(f"{name},{name}.jpg,{LAT},{LON},0" for name in names),
        f"nowhere,p000.jpg,,{LON},0",
        f"north,p000.jpg,95,{LON},0",
        f"q001,p001.jpg,{LAT},{LON},0",
    ]
