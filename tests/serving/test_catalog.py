"""The catalog's decisions, without replicas: what it follows, what it calls proven, what it does with a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from geoloc.core.errors import CorruptArtifact, ServiceUnavailable
from geoloc.serving import catalog
from geoloc.serving.answer import Pin, ServedIndex
from tests.serving.fake_backend import PIN

INDICES = {"default": ServedIndex(uri="/nowhere")}


class Service:
    """Replicas that open whatever they get, or raise; and an index with a current snapshot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = "s"
        self.failures: list[Exception] = []
        self.replicas = 1
        self.opened: list[str] = []
        self.stored: dict[bytes, bytes] = {}
        monkeypatch.setattr(catalog.internal_kv, "_internal_kv_get", self._get)
        monkeypatch.setattr(catalog.internal_kv, "_internal_kv_put", self._put)
        monkeypatch.setattr(catalog, "current_snapshot", lambda uri: self.current)
        monkeypatch.setattr(catalog, "resolve_pin", self._resolve)
        monkeypatch.setattr(catalog, "_on_all", self._on_all)

    def _get(self, key: bytes, *, namespace: bytes) -> bytes | None:
        return self.stored.get(key)

    def _put(self, key: bytes, value: bytes, *, namespace: bytes) -> None:
        self.stored[key] = value

    def _resolve(self, name: str, index: ServedIndex) -> Pin:
        chosen = {"snapshot_id": index.snapshot_id or self.current, "current_id": self.current}
        return PIN.model_copy(update=chosen)

    async def _on_all(self, deployment: str, method: str, pin: Pin) -> int:
        if deployment == catalog.SEARCH:
            self.opened.append(pin.snapshot_id)
            if self.failures:
                raise self.failures.pop(0)
        return self.replicas


async def looks(replica: catalog.CatalogReplica, failed: dict[str, str], count: int) -> str:
    """What is served after some looks at the index."""
    for _ in range(count):
        await replica._follow("default", INDICES["default"], failed)
    return (await replica.pins())["default"].snapshot_id


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(CorruptArtifact("broken"), 1), (RuntimeError("a bug"), 1), (ServiceUnavailable("later"), 2)],
)
def test_a_snapshot_that_fails_ends_no_watch(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, tries: int
) -> None:
    service = Service(monkeypatch)
    replica = catalog.CatalogReplica("id", INDICES, 0.0)

    async def script() -> tuple[str, str]:
        failed: dict[str, str] = {}
        service.failures, service.current = [failure], "t"
        first = await looks(replica, failed, 3)
        service.current = "u"
        return first, await looks(replica, failed, 1)

    first, last = asyncio.run(script())
    assert first == ("t" if tries == 2 else "s")  # what passes is tried again, what is broken is not
    assert last == "u"
    assert service.opened == ["t"] * tries + ["u"]


def test_a_snapshot_that_no_search_replica_opened_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch)
    replica = catalog.CatalogReplica("id", INDICES, 0.0)

    async def proven(replicas: int, snapshot_id: str) -> Any:
        service.replicas = replicas
        pin: Any = await replica.reload("default", snapshot_id)
        return pin.proven

    assert asyncio.run(proven(0, "t")) is False
    assert asyncio.run(proven(2, "u")) is True
    again = catalog.CatalogReplica("id", INDICES, 0.0)  # its successor decides as it did
    assert asyncio.run(again.pins()) == asyncio.run(replica.pins())


def test_what_is_served_is_what_was_current_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between two looks at the index must not count as known."""
    ids = iter(["s", "t"])
    monkeypatch.setattr(catalog, "current_snapshot", lambda uri: next(ids))
    seen: list[str] = []

    def manifest(uri: str, snapshot_id: str) -> Any:
        seen.append(snapshot_id)
        raise CorruptArtifact("enough")

    monkeypatch.setattr(catalog, "read_manifest", manifest)
    with pytest.raises(CorruptArtifact):
        catalog.resolve_pin("default", INDICES["default"])
    assert seen == ["s"]
    assert next(ids) == "t"  # the second look is left to the watch
