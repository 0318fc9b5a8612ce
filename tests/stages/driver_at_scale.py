"""What the driver of a stage holds and how long it plans: `python -m tests.stages.driver_at_scale STAGE ROWS FOLDER`.

The tables of FOLDER have ROWS rows and pictures of a few bytes; they are made when they are missing. The driver does
all that it does in a run. Where the work of its tasks plays no part, a worker that answers with a receipt stands in for
them. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import rasterio
from affine import Affine
from PIL import Image
from small_index import build, encoded, texture

from geoloc.core import part_table, schemas
from geoloc.core.part_table import Part, Receipt, TablePlan
from geoloc.models.card import read_card
from geoloc.runtime import table_job
from geoloc.stages import encode, evaluate, index_build, ingest, localize, train

ROWS_A_PART = 1024
FILES = 16  # photos; the rows of a list name them again and again
QUERIES = 1000  # of the evaluation; its rows are the tiles
CONFIG = ingest.IngestConfig(tile_px=32)  # sheets of coarse pixels are small


class Stopped(Exception):
    """The driver has planned all there is to plan."""


class Meter:
    """What this process holds, looked at every 20 ms, and when it first gave work to tasks."""

    def __init__(self) -> None:
        self.begin()
        self.planned_s = self.planned_cpu_s = 0.0
        self.before, self.most = held_mb(), 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, held_mb())
            time.sleep(0.02)

    def begin(self) -> None:
        """The inputs are there, the stage begins."""
        self.start, self.cpu = time.monotonic(), time.process_time()

    def first_task(self) -> None:
        """Work is given to tasks, perhaps for the first time."""
        if not self.planned_s:
            self.planned_s, self.planned_cpu_s = time.monotonic() - self.start, time.process_time() - self.cpu


def held_mb() -> float:
    """Memory of this process that is no mapped file, MB: the rest is the system's to take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def receipts_of(meter: Meter, rows: int, counts: dict[str, int]) -> Any:
    """Workers that give back a receipt for each unit, without a file."""

    def run(plan: TablePlan, items: list[dict[str, Any]], *_: Any) -> Iterator[dict[str, str]]:
        meter.first_task()
        for item in items:
            part = Part(name=plan.part_name(item["index"]), rows=rows, bytes=3, sha256="0" * 64)
            receipt = Receipt(part=part, counts=counts).model_dump_json()
            yield {"index": str(item["index"]), "receipt": receipt, "failure": ""}

    return mock.patch.object(table_job, "_run", run)


def write_once(
    uri: str,
    kind: str,
    rows: int,
    columns: Callable[[np.ndarray], dict[str, Any]],
    schema: pa.Schema,
    *,
    alike: bool = False,
) -> str:
    """A table of so many rows; `columns` are those of some row numbers int64[n]. `alike`: all parts are one file."""
    plan = TablePlan(uri, f"{kind} {rows}")
    with part_table.begin(uri, plan.fingerprint) as table, mock.patch("os.fsync"):
        if table.finished is None:
            parts = []
            for first in range(0, rows, ROWS_A_PART):
                if alike and parts:
                    name = plan.part_name(len(parts))
                    os.link(Path(uri, parts[0].name), Path(uri, name))
                    parts.append(parts[0].model_copy(update={"name": name}))
                    continue
                numbers = np.arange(first, min(rows, first + ROWS_A_PART))
                part = schemas.conform(pa.table(columns(numbers)), schema)
                parts.append(table.write_part(len(parts), part))
            table.publish(kind=kind, parts=parts, details={"tile_m": 51.2})
    return uri


def places(numbers: np.ndarray) -> dict[str, Any]:
    """Places on a lattice of 50 m, the same for a tile and its photo."""
    return {"lat": 10.0 + numbers // 4000 * 0.00045, "lon": 20.0 + numbers % 4000 * 0.00045}


def write_ingested(folder: Path, rows: int, *, alike: bool = False) -> str:
    """Tables of tiles, queries and pairs, a pair of each."""
    root, picture = str(folder / ("alike" if alike else "tables")), encoded(texture(1))
    write_once(f"{root}/tiles", "tiles", rows, lambda n: {
        "tile_id": [f"tile-{k:08d}" for k in n], **places(n), "metres_per_pixel": np.full(len(n), 0.8),
        "image": [picture] * len(n), "source": ["x"] * len(n),
    }, schemas.TILES, alike=alike)  # fmt: skip
    write_once(f"{root}/queries", "queries", rows, lambda n: {
        "query_id": [f"photo-{k:08d}" for k in n], **places(n), "view": ["panorama"] * len(n),
        "image": [picture] * len(n), "heading_deg": np.zeros(len(n)), "fov_deg": np.full(len(n), 360.0),
    }, schemas.QUERIES, alike=alike)  # fmt: skip
    write_once(f"{root}/pairs", "pairs", rows, lambda n: {
        "query_id": [f"photo-{k:08d}" for k in n], "tile_id": [f"tile-{k:08d}" for k in n],
        "relation": ["positive"] * len(n), "east_m": np.zeros(len(n)), "north_m": np.zeros(len(n)),
    }, schemas.PAIRS, alike=alike)  # fmt: skip
    return root


def write_codes(folder: Path, rows: int) -> tuple[str, str]:
    """A table of codes and its model."""
    model = small(folder).model
    card, rng = read_card(model), np.random.default_rng(3)
    write_once(str(folder / "codes"), "codes", rows, lambda n: {
        "tile_id": [f"tile-{k:08d}" for k in n], **places(n),
        "code": [rng.bytes(card.bits // 8) for _ in n], "model_id": [card.model_id] * len(n),
    }, schemas.codes_schema(card.bits // 8, None))  # fmt: skip
    return str(folder / "codes"), model


def small(folder: Path) -> Any:
    """A small index of a small model."""
    root = folder / "small"
    if not (root / "done").exists():
        build(root, count=16)
        (root / "done").touch()
    return SimpleNamespace(index=str(root / "index"), model=str(root / "model"))


def write_list(folder: Path, rows: int) -> str:
    """A list of photos with ids of their own, which name a few files."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        Image.fromarray(texture(number)[:32]).save(folder / "photos" / f"{number:06d}.png")
    path = folder / "photos.csv"
    if not path.exists():
        with path.open("w") as file:
            file.write("id,photo,lat,lon,heading_deg,fov_deg\n")
            file.writelines(
                f"p{k:09d},{k % FILES:06d}.png,{k * 1e-6:.7f},{k * 2e-6:.7f},{k % 360},70\n"
                for k in range(rows)
            )
    return str(path)


def write_sheet(folder: Path, rows: int) -> str:
    """An empty sheet on which a grid of 32 m has so many tiles."""
    side = round(rows**0.5 * 3.2)
    path = folder / "sheet.tif"
    place = Affine(10.0, 0.0, 400_000.0, 0.0, -10.0, 6_600_000.0)
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32635",
    }
    with rasterio.open(path, "w", transform=place, tiled=True, sparse_ok=True, **profile):
        pass
    return str(path)


def ingest_grid(rows: int, folder: Path, meter: Meter) -> None:
    inputs = ingest.IngestInputs(imagery=[write_sheet(folder, rows)])
    meter.begin()
    with receipts_of(meter, ROWS_A_PART, {"mostly_nodata": 0}):
        ingest.run(CONFIG, inputs, str(folder / "out"))


def ingest_centres(rows: int, folder: Path, meter: Meter) -> None:
    path = folder / "centres.csv"
    with path.open("w") as file:
        file.write("tile_id,lat,lon\n")
        file.writelines(
            f"tile-{k:08d},{59.5 + k // 4000 * 0.0003:.6f},{25.3 + k % 4000 * 0.0005:.6f}\n"
            for k in range(rows)
        )
    inputs = ingest.IngestInputs(imagery=[write_sheet(folder, 10_000_000)], centres=str(path))
    meter.begin()
    with receipts_of(meter, ROWS_A_PART, {"mostly_nodata": 0}):
        ingest.run(CONFIG, inputs, str(folder / "out"))


def ingest_photos(rows: int, folder: Path, meter: Meter) -> None:
    inputs = ingest.IngestInputs(photos=write_list(folder, rows))
    meter.begin()
    with receipts_of(meter, ROWS_A_PART, {"unused_file_headings": 0}):
        ingest.run(CONFIG, inputs, str(folder / "out"))


def ingest_pairs(rows: int, folder: Path, meter: Meter) -> None:
    root, config = write_ingested(folder, rows, alike=True), ingest.IngestConfig()
    meter.begin()
    with (
        receipts_of(meter, ROWS_A_PART, {}),
        ingest.OutputTables(str(folder / "out"), overwrite=False) as opened,
    ):
        ingest._pairs(
            config, 51.2, f"{root}/tiles", f"{root}/queries", str(folder / "out" / "pairs"), opened, []
        )


def localize_photos(rows: int, folder: Path, meter: Meter) -> None:
    inputs = localize.LocalizeInputs(index=small(folder).index, photos=write_list(folder, rows))
    meter.begin()
    with (
        receipts_of(meter, 0, {"outcome/located": 64}),
        mock.patch.multiple(localize, ensure_ray=mock.DEFAULT, cpu_count=lambda: 2),
    ):
        localize.run(localize.LocalizeConfig(), inputs, str(folder / "out"))


def train_pairs(rows: int, folder: Path, meter: Meter) -> None:
    root = write_ingested(folder, rows)
    config = train.TrainConfig(recipe=f"{small(folder).model}/recipe.yaml", num_workers=1, batch_size=2)

    def fit(*_: Any) -> None:
        meter.first_task()
        raise Stopped

    meter.begin()
    with mock.patch.object(train, "_fit", fit), mock.patch.object(train, "_await_resources"):
        train.run(config, train.TrainInputs(train=root), str(folder / "out"))


def encode_tiles(rows: int, folder: Path, meter: Meter) -> None:
    root = write_ingested(folder, rows, alike=True)
    meter.begin()
    with receipts_of(meter, ROWS_A_PART, {"varied": ROWS_A_PART}), mock.patch.object(encode, "ensure_ray"):
        encode.run(
            encode.EncodeConfig(num_actors=2),
            encode.EncodeInputs(tiles=root, model=small(folder).model),
            str(folder / "out"),
        )


def index_codes(rows: int, folder: Path, meter: Meter) -> None:
    codes, model = write_codes(folder, rows)
    meter.begin()
    original = index_build.build_shards

    def shards(plan: Any) -> Any:
        meter.first_task()
        return original(plan)

    with mock.patch.object(index_build, "build_shards", shards):
        inputs = index_build.IndexInputs(codes=codes, model=model)
        index_build.run(index_build.IndexConfig(shards=8), inputs, str(folder / "index"))


def evaluate_gallery(rows: int, folder: Path, meter: Meter) -> None:
    """The index of `index_codes`, which runs before."""
    pictures = [encoded(texture(number)[:32]) for number in range(FILES)]
    write_once(str(folder / "asked" / "queries"), "queries", QUERIES, lambda n: {
        "query_id": [f"photo-{k:08d}" for k in n], **places(n), "view": ["panorama"] * len(n),
        "image": [pictures[k % FILES] for k in n], "heading_deg": np.zeros(len(n)), "fov_deg": np.full(len(n), 360.0),
    }, schemas.QUERIES)  # fmt: skip
    inputs = evaluate.EvaluateInputs(index=str(folder / "index"), queries=str(folder / "asked"))
    meter.begin()
    original = evaluate._open_items

    def opened(*words: Any) -> Any:
        items = original(*words)
        meter.first_task()
        return items

    with mock.patch.object(evaluate, "_open_items", opened):
        evaluate.run(
            evaluate.EvaluateConfig(report_queries=0, truth_radius_m=5.0), inputs, str(folder / "out")
        )


STAGES = (ingest_grid, ingest_centres, ingest_photos, ingest_pairs, localize_photos, train_pairs, encode_tiles,
          index_codes, evaluate_gallery)  # fmt: skip


def main() -> None:
    name, rows, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GEOLOC_CACHE"] = str(folder / "cache")
    stage = next(each for each in STAGES if each.__name__ == name)
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    meter = Meter()
    with contextlib.suppress(Stopped):
        stage(rows, folder, meter)
    seconds = time.monotonic() - meter.start
    found = {
        "stage": name,
        "rows": rows,
        "planned_s": round(meter.planned_s, 1),
        "planned_cpu_s": round(meter.planned_cpu_s, 1),
        "seconds": round(seconds, 1),
    }
    sys.stdout.write(
        json.dumps(found | {"before_mb": round(meter.before), "most_mb": round(meter.most)}) + "\n"
    )


if __name__ == "__main__":
    main()
