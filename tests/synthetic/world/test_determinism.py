"""Same seed, same bytes: whatever the order, the chunking, the cache, the threads or the process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera, jpeg
from geoloc.synthetic.world.distractors import TileShape, square_centres
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.style import STYLES
from geoloc.synthetic.world.view_conditions import flight_look, photo_look

THINGS = ("chunk", "photo", "wide photo", "imagery", "centres", "harbour", "epoch")


def digest(city: City, thing: str) -> str:
    """A hash of one product of the city."""
    return hashlib.sha256(_product(city, thing)).hexdigest()[:16]


def _product(city: City, thing: str) -> bytes:
    if thing == "photo":
        return jpeg(render_panorama(city, (120.0, 90.0), photo_look(3, 1)), 80)
    if thing == "wide photo":
        return render_panorama(
            city, (60.3, 200.7), photo_look(3, 2), Camera(112, 616, supersampling=1)
        ).tobytes()
    if thing == "imagery":
        return render_aerial(city, (0.0, 0.0, 102.4, 51.2), look=flight_look(2, 1)).tobytes()
    if thing == "centres":
        return square_centres(city, 3).tobytes() + str(TileShape()).encode()
    other = {"harbour": City(city.seed, STYLES["harbour"]), "epoch": City(city.seed, epoch=1)}.get(
        thing, city
    )
    layers, table = other.chunk(2, 1)
    return b"".join(getattr(layers, name).tobytes() for name in layers.__dataclass_fields__) + table.tobytes()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    city = City(seed=11)
    return {thing: digest(city, thing) for thing in THINGS}


def test_neither_the_order_nor_a_tiny_cache_matters(expected: dict[str, str]) -> None:
    city = City(seed=11, chunks=1)
    assert {thing: digest(city, thing) for thing in reversed(THINGS)} == expected


def test_threads_make_the_same(expected: dict[str, str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda thing: digest(City(seed=11), thing), [*THINGS, *THINGS])
    assert list(found) == [expected[thing] for thing in [*THINGS, *THINGS]]


def test_another_process_with_one_thread_makes_the_same(expected: dict[str, str]) -> None:
    code = (
        "from synthetic.world.test_determinism import THINGS, City, digest\n"
        "city = City(seed=11)\n"
        "print({thing: digest(city, thing) for thing in THINGS})"
    )
    tests = str(Path(__file__).resolve().parents[2])
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tests,
        env={**os.environ, **single, "PYTHONPATH": tests},
    )  # fmt: skip
    assert done.stdout.strip() == str(expected)


def test_seeds_and_styles_and_epochs_differ(expected: dict[str, str]) -> None:
    other = City(seed=12)
    assert all(digest(other, thing) != expected[thing] for thing in THINGS)
    assert len(set(expected.values())) == len(THINGS)
    assert np.unique([expected[thing] for thing in ("chunk", "harbour", "epoch")]).size == 3
