"""The whole way as jobs on machines that share nothing, before a store that fails, resets and stalls.

The same inputs give the same bytes as with a store that answers; the time that it costs is printed. The second time
two machines are killed too, one while tiles are cut and one while they are encoded.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from PIL import Image
from pyproj import Transformer
from small_ingest import TINY, blotches, encoded

from geoloc.core import storage
from geoloc.geometry.polar import aerial_to_polar
from tests.conftest import S3Server
from tests.failing_proxy import FailingProxy, Faults, failing_proxy
from tests.sources.sheet_files import write_sheet

from .private_nodes import PrivateNodes, private_nodes

PIXEL_M, TILE_M, SHEET_PX = 0.5, 40.0, 1000
CRS, EAST_M, NORTH_M = "EPSG:32755", 500_000.0, 6_093_000.0  # on the meridian of its zone
PLACES = 64
# A fifth of the requests fails, and a few get half an answer or none; a stall lasts until the client gives up.
FAULTS = {"error": 0.1, "reset": 0.06, "lost": 0.04, "half": 0.01, "stall": 0.003}
TIMEOUT_S = 5.0
STEPS = 24


def write_inputs(folder: Path, uri: str) -> None:
    """A sheet, centres of tiles on it, and at each a panorama, the polar image of the ground around it."""
    rng = np.random.default_rng(11)
    ground = blotches(rng, SHEET_PX)
    corner = Affine(PIXEL_M, 0.0, EAST_M, 0.0, -PIXEL_M, NORTH_M)
    sheet = write_sheet(
        folder / "sheet.tif", ground.transpose(2, 0, 1), corner, CRS, tiled=True, compress="deflate"
    )
    storage.copy_file(sheet, f"{uri}/sheets/sheet.tif")
    to_degrees = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    pixels = torch.from_numpy(ground).permute(2, 0, 1)[None].float()
    centres, photos = ["tile_id,lat,lon"], ["id,photo,lat,lon,heading_deg"]
    for place in range(PLACES):
        column, row = 60 + 110 * (place % 8), 60 + 110 * (place // 8)
        east, north = rng.uniform(-1.4, 1.4, 2)
        for lines, name, x, y in (
            (centres, f"t{place:03d}", 0.0, 0.0), (photos, f"q{place:03d},photos/{place:03d}.png", east, north)
        ):  # fmt: skip
            lon, lat = to_degrees.transform(EAST_M + PIXEL_M * column + x, NORTH_M - PIXEL_M * row + y)
            lines.append(f"{name},{lat:.8f},{lon:.8f}" + (",0" if lines is photos else ""))
        half = round(TILE_M / PIXEL_M / 2)
        polar = aerial_to_polar(
            pixels[..., row - half : row + half, column - half : column + half],
            height_px=16,
            width_px=64,
            radius_px=16 / PIXEL_M,
            east_px=torch.tensor([east / PIXEL_M]).float(),
            north_px=torch.tensor([north / PIXEL_M]).float(),
        )
        picture = Image.fromarray(polar[0].permute(1, 2, 0).round().byte().numpy()).resize((128, 32))
        storage.write_bytes(f"{uri}/photos/{place:03d}.png", encoded(np.asarray(picture)))
    storage.write_bytes(f"{uri}/centres.csv", "\n".join(centres).encode())
    storage.write_bytes(f"{uri}/photos.csv", "\n".join(photos).encode())
    storage.write_bytes(f"{uri}/recipe.yaml", TINY.encode())


def jobs(inputs: str, out: str) -> dict[str, list[str]]:
    """The words of each stage's job, in order."""
    index = ["--index", f"{out}/index"]
    return {
        "ingest": [
            "--imagery", f"{inputs}/sheets", "--centres", f"{inputs}/centres.csv", "--photos", f"{inputs}/photos.csv",
            "--tile-m", str(TILE_M), "--metres-per-pixel", str(PIXEL_M), "--rows-per-part", "4",
            "--output", f"{out}/tables",
        ],
        "train": [
            "--train", f"{out}/tables", "--recipe", f"{inputs}/recipe.yaml", "--steps", str(STEPS),
            "--num-workers", "2", "--checkpoint-every", "2", "--output", f"{out}/model",
        ],
        "encode": [
            "--tiles", f"{out}/tables", "--model", f"{out}/model", "--num-actors", "2", "--output", f"{out}/codes",
        ],
        "index": [
            "build", "--codes", f"{out}/codes", "--model", f"{out}/model", "--shards", "4", "--output", f"{out}/index",
        ],
        "evaluate": [
            *index, "--queries", f"{out}/tables", "--headings", "4", "--output", f"{out}/evaluation",
        ],
        "localize": [
            *index, "--photos", f"{inputs}/photos.csv", "--headings", "4", "--uncalibrated", "--output", f"{out}/fixes",
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class WholeWay:
    """What one run of all stages left: SHA-256 of each file, seconds of each stage, and the log of the training."""

    files: dict[str, str]
    seconds: dict[str, float]
    log: bytes


@contextlib.contextmanager
def killing(nodes: PrivateNodes, ip: str, next_ip: str, parts: str) -> Iterator[None]:
    """A machine dies when the first of these parts is there, and another one comes."""

    def kill() -> None:
        while not any(".parquet" in file.name for file in storage.list_files(parts)):
            time.sleep(0.1)
        nodes.kill(ip)
        nodes.add(next_ip)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def curve(log: bytes) -> list[list[float]]:
    """What a training learnt, without how long it took."""
    return [
        [line[name] for name in ("step", "loss", "batch_accuracy")]
        for line in map(json.loads, log.splitlines())
    ]


def run_all(
    nodes: PrivateNodes, s3_uri: str, calm: WholeWay | None = None, *, kill: bool = False
) -> WholeWay:
    """Every stage as a job, one after the other, into the same place; what lay there is removed."""
    inputs, out = f"{s3_uri}/inputs", f"{s3_uri}/out"
    storage.delete(out)
    seconds, log = {}, b""
    for stage, words in jobs(inputs, out).items():
        with contextlib.ExitStack() as stack:
            if kill and stage == "ingest":
                stack.enter_context(killing(nodes, "127.0.0.4", "127.0.0.5", f"{out}/tables/tiles"))
            if kill and stage == "encode":
                stack.enter_context(killing(nodes, "127.0.0.3", "127.0.0.6", f"{out}/codes"))
            start = time.monotonic()
            nodes.submit(f"jobs/{stage}.py", *words)
            seconds[stage] = round(time.monotonic() - start, 1)
        if stage == "train":
            log = storage.read_bytes(f"{out}/model/metrics.jsonl")
            if (
                calm is not None
            ):  # an index is named by all files of its model: the times must be the same there
                assert curve(log) == curve(calm.log)
                storage.write_bytes(f"{out}/model/metrics.jsonl", calm.log)
    files = {file.uri.removeprefix(out): storage.sha256_file(file.uri) for file in storage.list_files(out)}
    return WholeWay(files, seconds, log)


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FailingProxy]:
    """All machines reach the store through it; the test itself does not."""
    with failing_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the inputs are."""
    uri = f"s3://{s3_server.bucket}/{secrets.token_hex(8)}"
    write_inputs(tmp_path_factory.mktemp("inputs"), f"{uri}/inputs")
    return uri


def on_nodes(
    proxy: FailingProxy, place: str, shares: dict[str, float], *words: Any, **options: Any
) -> WholeWay:
    """`run_all` on new machines, before a store that fails in these shares."""
    proxy.faults = Faults()
    environment = {"AWS_ENDPOINT_URL": proxy.endpoint, "GEOLOC_STORE_TIMEOUT_S": str(TIMEOUT_S)}
    with private_nodes(**environment) as nodes:
        proxy.faults = Faults(shares=shares)
        proxy.failed.clear()
        found = run_all(nodes, place, *words, **options)
        proxy.faults = Faults()
    return found


@pytest.fixture(scope="module")
def calm(proxy: FailingProxy, place: str) -> WholeWay:
    """All stages with a store that answers."""
    return on_nodes(proxy, place, {})


@pytest.mark.slow
@pytest.mark.timeout(4500)
@pytest.mark.parametrize("kill", [False, True], ids=["store", "store and machines"])
def test_the_whole_way_before_a_failing_store_ends_with_the_same_bytes(
    kill: bool, proxy: FailingProxy, place: str, calm: WholeWay
) -> None:
    hit = on_nodes(proxy, place, FAULTS, calm, kill=kill)
    figures = {
        "calm": calm.seconds,
        "hit": hit.seconds,
        "failed": dict(proxy.failed),
        "requests": len(proxy.requests),
    }
    print(json.dumps(figures))  # noqa: T201
    assert set(proxy.failed) == set(FAULTS)
    assert hit.files == calm.files
    assert {"/fixes/fixes.geojson", "/evaluation/metrics.json", "/model/model.safetensors"} < set(hit.files)
