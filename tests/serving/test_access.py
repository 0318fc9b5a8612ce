"""API keys, their scopes and rates; the addresses that a service may listen on without them."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import httpx
import pytest
from small_index import encoded, texture

from geoloc.core.errors import ConfigError
from geoloc.serving.access import add_key, read_keys
from geoloc.serving.limits import ServingLimits
from geoloc.serving.server import ServeConfig
from tests.serving.fake_backend import FakeBackend, talk

FILES = {"image": ("a.png", encoded(texture(1)), "image/png")}


def test_only_the_hash_of_a_key_is_stored_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = add_key(str(path), "team-a"), add_key(str(path), "ops", admin=True)
    text = path.read_text()
    assert first.key not in text
    assert second.key not in text
    assert len(first.key) >= 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.scopes for key in read_keys(str(path))] == [("query",), ("query", "admin")]
    with pytest.raises(ConfigError, match="already"):
        add_key(str(path), "ops")
    with pytest.raises(ConfigError, match="unusable: id"):
        add_key(str(path), "two words")


def test_a_file_of_keys_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"id": "a", "sha256": "short"}]}))
    with pytest.raises(ConfigError, match=r"keys\.0\.sha256") as error:
        read_keys(str(path))
    assert "short'" not in str(error.value)


def test_a_file_without_a_key_does_not_open_the_service_to_everybody(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with pytest.raises(ConfigError, match="holds no API key"):
        read_keys(str(path))
    add_key(str(path), "team-a")
    assert [key.id for key in read_keys(str(path))] == ["team-a"]


def test_without_a_known_key_nothing_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = add_key(str(tmp_path / "keys"), "team-a").key
    keys = read_keys(str(tmp_path / "keys"))
    backend = FakeBackend()

    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {key}"},
            {"authorization": f"Bearer {key}"},
            {"x-api-key": key},
        ]
        return [await client.post("/v1/localize", files=FILES, headers=each) for each in headers]

    with caplog.at_level(logging.DEBUG):
        answers = talk(backend, ServingLimits(decoders=1), script, keys=keys)
    assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 200]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert answers[0].json()["reason"] == "unauthorized"
    assert "is missing" in answers[0].json()["detail"]
    assert len(backend.photos) == 2
    assert key not in caplog.text
    assert "wrong" not in caplog.text


def test_probes_need_no_key(tmp_path: Path) -> None:
    add_key(str(tmp_path / "keys"), "a")
    keys = read_keys(str(tmp_path / "keys"))

    async def script(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/healthz")]

    assert talk(FakeBackend(), ServingLimits(decoders=1), script, keys=keys) == [200] * 3


def test_a_client_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    quick = add_key(str(tmp_path / "keys"), "quick", requests_per_s=1000.0, burst=50).key
    slow = add_key(str(tmp_path / "keys"), "slow").key
    keys = read_keys(str(tmp_path / "keys"))

    async def script(client: httpx.AsyncClient) -> dict[str, list[httpx.Response]]:
        return {
            key: [
                await client.post("/v1/localize", files=FILES, headers={"x-api-key": key}) for _ in range(4)
            ]
            for key in (slow, quick)
        }

    answers = talk(FakeBackend(), ServingLimits(decoders=1, requests_per_s=0.1, burst=2), script, keys=keys)
    assert [answer.status_code for answer in answers[quick]] == [200] * 4
    assert [answer.status_code for answer in answers[slow]] == [200, 200, 429, 429]
    assert answers[slow][2].json()["reason"] == "rate_limited"
    assert 5 <= int(answers[slow][2].headers["retry-after"]) <= 10


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.3", False),
        ("::", False),
    ],
)
def test_a_public_address_needs_keys(host: str, allowed: bool) -> None:
    config = ServeConfig(index="a", host=host)
    if allowed:
        config.check_host()
    else:
        with pytest.raises(ConfigError, match="--keys"):
            config.check_host()
        config.model_copy(update={"insecure": True}).check_host()
        config.model_copy(update={"keys": "keys.json"}).check_host()
