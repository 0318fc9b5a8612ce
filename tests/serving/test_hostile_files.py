"""Hostile and odd uploads: each gets the status that is written beside it, and the service answers on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from small_index import encoded, texture

from geoloc.serving.decoder_process import MEMORY_LIMIT_BYTES
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend, talk
from tests.serving.hostile_files import exif, hostile_files, photo, saved


def test_every_hostile_file_gets_its_status_and_the_service_answers_on() -> None:
    files = hostile_files()
    assert len(files) > 50
    children: set[int] = set()

    async def script(client: httpx.AsyncClient) -> list[tuple[str, int, str | None]]:
        seen = []
        for name, data, _, _ in files:
            answer = await client.post("/v1/localize", files={"image": ("photo.jpg", data, "image/jpeg")})
            body = answer.json()
            refused = answer.status_code != 200
            seen.append((name, answer.status_code, body["reason"] if refused else None))
            if refused:
                assert answer.headers["content-type"] == "application/problem+json"
                assert body["request_id"] == answer.headers["x-request-id"]
            children.update(child.pid for child in psutil.Process().children())
        last = await client.post("/v1/localize", files={"image": ("a", encoded(texture(1)), "")})
        assert last.status_code == 200
        return seen

    seen = talk(FakeBackend(), ServingLimits(decoders=1), script)
    assert seen == [(name, status, reason) for name, _, status, reason in files]
    assert children


def test_what_the_model_gets_is_small_however_large_the_photo() -> None:
    backend = FakeBackend()
    large = saved(Image.fromarray(texture(3, 128)).resize((4_000, 3_000)), "JPEG")

    async def script(client: httpx.AsyncClient) -> int:
        return (await client.post("/v1/localize", files={"image": ("a", large, "")})).status_code

    assert talk(backend, ServingLimits(decoders=1), script) == 200
    (one,) = backend.photos
    assert one.image.shape == (32, 64, 3)  # the model's panorama input, 6 kB where the photo has 36 MB


def test_orientation_is_honoured_and_positions_play_no_part() -> None:
    backend = FakeBackend()
    upright = photo(64, 128)
    turned = upright.transpose(Image.Transpose.ROTATE_90)  # as a camera held upright stores it
    uploads = [
        saved(upright, "JPEG", quality=95),
        saved(turned, "JPEG", quality=95, exif=exif(orientation=6)),
        saved(turned, "JPEG", quality=95, exif=exif(orientation=6, gps=True)),
    ]

    async def script(client: httpx.AsyncClient) -> list[int]:
        fields = {"view": "street", "fov_deg": "90"}
        return [
            (await client.post("/v1/localize", files={"image": ("a", data, "")}, data=fields)).status_code
            for data in uploads
        ]

    assert talk(backend, ServingLimits(decoders=1), script) == [200] * 3
    first, second, third = (one.image.astype(int) for one in backend.photos)
    assert np.abs(first - second).mean() < 3
    assert np.array_equal(second, third)


def test_the_decoder_has_no_secrets_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    found: dict[str, str] = {}

    async def script(client: httpx.AsyncClient) -> None:
        await client.post("/v1/localize", files={"image": ("a", encoded(texture(1)), "")})
        for child in psutil.Process().children():
            if "decoder_process" in " ".join(child.cmdline()):
                found["environment"] = Path(f"/proc/{child.pid}/environ").read_text()
                found["limits"] = Path(f"/proc/{child.pid}/limits").read_text()

    talk(FakeBackend(), ServingLimits(decoders=1), script)
    assert "very secret" not in found["environment"]
    assert f"Max address space         {MEMORY_LIMIT_BYTES}" in found["limits"]
    assert "Max file size             0" in found["limits"]


def test_bytes_beyond_the_pixels_are_kept_out(tmp_path: Path) -> None:
    """No part of an upload is written to disk by name, and its name is never used."""
    name = f"../../{tmp_path}/evil"

    async def script(client: httpx.AsyncClient) -> int:
        files = {"image": (name, encoded(texture(1)), "image/png")}
        return (await client.post("/v1/localize", files=files)).status_code

    assert talk(FakeBackend(), ServingLimits(decoders=1), script) == 200
    assert os.listdir(tmp_path) == []


def test_the_corpus_is_what_it_says() -> None:
    for name, data, status, _ in hostile_files():
        if status == 200:
            with Image.open(io.BytesIO(data)) as image:
                assert min(image.size) >= 32, name
