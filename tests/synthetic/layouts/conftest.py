"""Small plans of every layout, and one of each rendered into memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from geoloc.synthetic.layouts import cvact, cvusa, map25d, university1652, vigor
from geoloc.synthetic.layouts.cloud_files import write_cloud
from geoloc.synthetic.layouts.render import blocks, make_city, write_block
from geoloc.synthetic.layouts.view_images import Export, Picture, truth_csv

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def vigor_plan() -> Export:
    return vigor.plan(vigor.VigorSpec(photos=40, tile_px=64, panorama_height_px=32))


@pytest.fixture(scope="session")
def cvusa_plan() -> Export:
    return cvusa.plan(cvusa.CvusaSpec(train=30, validation=12, tile_px=60, panorama_height_px=28))


@pytest.fixture(scope="session")
def cvact_plan() -> Export:
    spec = cvact.CvactSpec(
        train=24, validation=8, test=60, missing_share=0.1, tile_px=48, panorama_height_px=32
    )
    return cvact.plan(spec)


@pytest.fixture(scope="session")
def university_plan() -> Export:
    return university1652.plan(
        university1652.UniversitySpec(train=6, test=5, extra=3, distractors=9, drone_views=3, size_px=32)
    )


@pytest.fixture(scope="session")
def map_plan() -> Export:
    return map25d.plan(map25d.MapSpec(panoramas=(30, 12, 12, 40, 12, 20), tile_px=32, panorama_height_px=32))


def write_all(export: Export, pictures: Sequence[Picture], write: Callable[[str, bytes], object]) -> None:
    """Render and write pictures in this process, block by block, as the stage's tasks do."""
    for group in blocks(pictures):
        write_block(make_city(export.cities[group[0].city], group[0].epoch), group, write)


def rendered(export: Export, keep: Callable[[str], bool]) -> Files:
    """The annotation files, the truth and the pictures whose path is wanted."""
    made: Files = {**export.annotations, "truth.csv": truth_csv(export)}
    wanted = [picture for picture in export.pictures if keep(picture.path)]
    write_all(export, wanted, made.__setitem__)
    return made


def rendered_cloud(export: Export, city: int) -> Files:
    """The files of one city's cloud."""
    made: Files = {}
    cloud = next(c for c in export.clouds if c.city == city)
    write_cloud(make_city(export.cities[city]), cloud, made.__setitem__)
    return made


def picture(data: bytes) -> np.ndarray:
    """Pixels of a picture file."""
    return np.asarray(Image.open(io.BytesIO(data)))


def table(data: bytes) -> list[list[str]]:
    """Rows of a csv file."""
    return list(csv.reader(io.StringIO(data.decode())))


def truth(export: Export) -> dict[str, dict[str, str]]:
    """Rows of `truth.csv` by path."""
    return {row["path"]: row for row in csv.DictReader(io.StringIO(truth_csv(export).decode()))}
