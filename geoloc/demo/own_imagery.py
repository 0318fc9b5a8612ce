"""The demo's model on real imagery: index it, make nadir drone photos from it, and locate them.

<output>/imagery/index         the imagery as an index, as `geoloc index --imagery` makes it
<output>/imagery/<set>         drone photos (`calibration`, `textured`, `textureless`) and their tables
<output>/imagery/evaluation    a report for each set

The photos are turned, scaled, moved off the tiles' centres, relit and compressed. Their heading is unknown.
Ground without texture, such as open sea, cannot be located at all, so its photos are measured separately.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from pydantic import BaseModel, ConfigDict

from geoloc.core import storage
from geoloc.core.errors import InputError
from geoloc.core.progress import say
from geoloc.demo.service_check import Post, post_photos
from geoloc.demo.stages import DemoRun
from geoloc.demo.text import errors, post_summary, recall_lines
from geoloc.evaluation.report.html import table
from geoloc.serving.server import ServeConfig, start
from geoloc.stages import calibrate, evaluate, index_imagery, ingest
from geoloc.stages.calibrate import CalibrateConfig, CalibrateInputs
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs, EvaluateResult
from geoloc.stages.index_imagery import ImageryIndexConfig, ImageryIndexInputs
from geoloc.stages.ingest import IngestConfig, IngestInputs
from geoloc.synthetic.nadir import NadirLook, nadir_views

SETS = {
    "textured": "drone photos of ground with texture",
    "textureless": "drone photos of ground without (open water)",
}
_CALIBRATION = "calibration"
_SCALES = (0.8, 1.25)
_SENT_COLUMNS = ("photo", "id", "lat", "lon", "fov_deg", "view")  # the heading is truth and is not sent


class ImageryResult(BaseModel):
    """What was measured on a user's own imagery."""

    model_config = ConfigDict(frozen=True)

    index: str
    tiles: int
    evaluations: dict[str, EvaluateResult]
    posts: dict[str, list[Post]]

    def text(self) -> str:
        """Recall, metres and posted photos of each set."""
        blocks = []
        for name, result in self.evaluations.items():
            blocks.append(
                recall_lines(result, f"{SETS[name]}, heading unknown; a tile within {_radius(result)}")
            )
            blocks.append("Posted to the service: " + post_summary(self.posts[name]))
        return "\n".join(blocks) + f"\nKeep serving: geoloc serve --index {self.index}"

    def page(self) -> str:
        """The same as a section of the report."""
        parts = [f"<h2>Own imagery: {self.tiles:,} tiles, drone photos of unknown heading</h2>"]
        for name, result in self.evaluations.items():
            names = list(result.within_radius[0].recall)
            rows = [
                [row.method, *(f"{row.recall[key]:.1f}" for key in names)] for row in result.within_radius
            ]
            parts.append(
                f"<h3>{result.queries:,} {SETS[name]}: a tile within {_radius(result)}, percent</h3>"
                + table(["", *names], rows)
                + f"<p>Best tile's centre: {errors(result.top1_error)}. Located: {errors(result.located_error)}. "
                f"Posted to the service: {post_summary(self.posts[name])} "
                f'<a href="imagery/evaluation/{name}/report.html">More</a></p>'
            )
        return "".join(parts)


def _radius(result: EvaluateResult) -> str:
    return f"{result.within_radius_m:g} m"


def run(demo: DemoRun, imagery: list[str], photos: int, posts: int) -> ImageryResult:
    """Index the imagery, measure `photos` drone photos made from it, and post `posts` of each set to its service.

    The same number of photos is made once more to calibrate the confidence. Finished parts are reused.
    """
    built = index_imagery.run(
        ImageryIndexConfig(keep_tiles=True),
        ImageryIndexInputs(imagery=imagery, model=demo.model),
        _at(demo, "index"),
    )
    _make_photos(demo, imagery, photos)
    _ingest(demo, _CALIBRATION)
    calibrate.run(
        CalibrateConfig(),
        CalibrateInputs(index=_at(demo, "index"), photos=[_at(demo, _CALIBRATION, "tables")]),
        _at(demo, "calibration-fit"),
        overwrite=demo.overwrite,
    )
    evaluations = {
        name: _evaluate(demo, name) for name in SETS if storage.exists(_at(demo, name, "photos.csv"))
    }
    handle = start(ServeConfig(index=_at(demo, "index")))
    try:
        answers = {
            name: post_photos(handle.url, _at(demo, name, "tables", "queries"), posts) for name in evaluations
        }
    finally:
        handle.stop()
    return ImageryResult(index=_at(demo, "index"), tiles=built.tiles, evaluations=evaluations, posts=answers)


def _at(demo: DemoRun, *names: str) -> str:
    return demo.at("imagery", *names)


def _make_photos(demo: DemoRun, imagery: list[str], count: int) -> None:
    """Photos for each set, split by texture, with a CSV of their known columns."""
    look = NadirLook(ground_m=demo.tile.tile_m, scale=_SCALES)
    for seed, folder in ((demo.sizes.seed, "test"), (demo.sizes.seed + 1, _CALIBRATION)):
        nadir_views(imagery, count, _at(demo, "photos", folder), seed=seed, look=look)
    rows = _rows(_at(demo, "photos", "test", "photos.csv"))
    sets = {
        "textured": [row for row in rows if row["textureless"] == "0"],
        "textureless": [row for row in rows if row["textureless"] == "1"],
        _CALIBRATION: _rows(_at(demo, "photos", _CALIBRATION, "photos.csv")),
    }
    if not sets["textured"]:
        raise InputError("No ground with texture was found in the imagery; give other sheets or more photos.")
    for name, chosen in sets.items():
        if chosen:
            _write_set(demo, name, chosen)
            say(f"imagery: {len(chosen)} photos, {name}")


def _rows(uri: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(storage.read_text(uri))))


def _write_set(demo: DemoRun, name: str, rows: list[dict[str, Any]]) -> None:
    folder = _at(demo, "photos", _CALIBRATION if name == _CALIBRATION else "test", "photos")
    text = io.StringIO()
    writer = csv.DictWriter(text, _SENT_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"id": row["photo"], "photo": storage.join(folder, row["photo"])} for row in rows)
    storage.write_bytes(_at(demo, name, "photos.csv"), text.getvalue().encode())


def _ingest(demo: DemoRun, name: str) -> None:
    ingest.run(
        IngestConfig(),
        IngestInputs(photos=_at(demo, name, "photos.csv")),
        _at(demo, name, "tables"),
        overwrite=demo.overwrite,
    )


def _evaluate(demo: DemoRun, name: str) -> EvaluateResult:
    _ingest(demo, name)
    return evaluate.run(
        EvaluateConfig(),
        EvaluateInputs(
            index=_at(demo, "index"),
            queries=_at(demo, name, "tables"),
            tiles=_at(demo, "index-tables"),
        ),
        _at(demo, "evaluation", name),
        overwrite=demo.overwrite,
    )
