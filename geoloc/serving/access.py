"""Who may ask, and how often: API keys, of which only hashes are stored, and a token bucket for each client.

A file of keys is JSON: `{"keys": [{"id", "sha256", "scopes", "requests_per_s", "burst"}]}`. A key is 256 random bits;
its SHA-256 suffices, because nobody can guess it. `geoloc serve key` adds one. Clients send `Authorization: Bearer
KEY` or `X-API-Key: KEY`. Keys appear in no log.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.serving.errors import Rejected
from geoloc.serving.limits import ServingLimits

Scope = Literal["query", "admin"]
_MOST_CLIENTS = 10_000  # buckets that are kept; those of clients long gone are full and say nothing


class KeyEntry(BaseModel):
    """One API key: its hash, what it is for, and its own limit of requests (None: the service's)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = ("query",)
    requests_per_s: float | None = Field(default=None, gt=0)
    burst: int | None = Field(default=None, ge=1)


class KeyFile(BaseModel):
    """The content of a file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


def read_keys(uri: str) -> tuple[KeyEntry, ...]:
    """The keys of a file; `ConfigError` when it is none, holds an id twice, or has no key: it would admit everybody."""
    keys = _keys_of(uri)
    if not keys:
        raise ConfigError(
            f"{uri!r} holds no API key, so nobody could be let in; add one with geoloc serve key, or serve without a "
            "file of keys."
        )
    return keys


def _keys_of(uri: str) -> tuple[KeyEntry, ...]:
    try:
        keys = KeyFile.model_validate_json(storage.read_bytes(uri)).keys
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{uri!r} is no file of API keys: {where}: {first['msg']}; make one with geoloc serve key."
        ) from error
    if len({key.id for key in keys}) < len(keys):
        raise ConfigError(f"{uri!r} names a key twice; every key needs an id of its own.")
    return keys


class NewKey(BaseModel):
    """A key that was made; `key` is shown this once and stored nowhere."""

    id: str
    key: str
    scopes: tuple[str, ...]
    file: str

    def text(self) -> str:
        """The key with where it belongs."""
        return f"Key {self.id} ({', '.join(self.scopes)}), shown once, its hash added to {self.file}:\n{self.key}"


def add_key(
    keys: str,
    name: str,
    *,
    admin: bool = False,
    requests_per_s: float | None = None,
    burst: int | None = None,
) -> NewKey:
    """Make an API key, add its hash to a local file of keys, and return it.

    Raises `ConfigError` for a name that the file holds already, or that is no plain word.
    """
    known = _keys_of(keys) if storage.exists(keys) else ()
    if name in {key.id for key in known}:
        raise ConfigError(f"{keys!r} holds a key {name!r} already; choose another name, or remove that one.")
    secret = secrets.token_urlsafe(32)
    scopes: tuple[Scope, ...] = ("query", "admin") if admin else ("query",)
    try:
        entry = KeyEntry(
            id=name, sha256=_hash(secret), scopes=scopes, requests_per_s=requests_per_s, burst=burst
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"The key is unusable: {first['loc'][0]}: {first['msg']}.") from error
    content = KeyFile(keys=(*known, entry)).model_dump_json(indent=1, exclude_none=True)
    storage.write_bytes(keys, content.encode() + b"\n")
    if storage.is_local(keys):
        Path(storage.local_path(keys)).chmod(0o600)
    return NewKey(id=name, key=secret, scopes=scopes, file=keys)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Doorkeeper:
    """Decides about each request: whose it is, whether it may, and whether it comes too soon."""

    def __init__(
        self,
        keys: tuple[KeyEntry, ...],
        limits: ServingLimits,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._clock_s = clock_s
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, request: Request, scope: Scope, *, counted: bool = True) -> str:
        """The id of the key, or the address of a client that needs none; `Rejected` with 401, 403 or 429.

        What is not `counted` needs a key, but spends none of the client's requests (pictures of a map).
        """
        entry = self._known(request) if self._keys else None
        if entry is not None and scope not in entry.scopes:
            raise Rejected(
                f"The key {entry.id} may not do this; use one with the scope {scope}.",
                status=403,
                reason="forbidden",
            )
        client = entry.id if entry else (request.client.host if request.client else "")
        rate = self._limits.requests_per_s
        burst = self._limits.burst
        if entry is not None:
            rate, burst = entry.requests_per_s or rate, entry.burst or burst
        if counted and rate > 0:
            self._spend(client, rate, burst)
        return client

    def _known(self, request: Request) -> KeyEntry:
        given = request.headers.get("x-api-key", "")
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given = value.strip()
        digest = _hash(given)
        # All are compared, each in constant time: how long it takes tells nothing.
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matching:
            what = "is not known here" if given else "is missing"
            raise Rejected(
                f"The API key {what}; send Authorization: Bearer KEY.",
                status=401,
                reason="unauthorized",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return matching[0]

    def _spend(self, client: str, rate: float, burst: int) -> None:
        now_s = self._clock_s()
        if client not in self._buckets and len(self._buckets) >= _MOST_CLIENTS:
            full = [name for name, bucket in self._buckets.items() if bucket.tokens_at(now_s) >= bucket.size]
            for name in full or list(self._buckets)[: _MOST_CLIENTS // 10]:
                del self._buckets[name]
        bucket = self._buckets.setdefault(client, _Bucket(rate, burst, now_s))
        wait_s = bucket.spend(now_s)
        if wait_s > 0:
            raise Rejected(
                f"More than {rate:g} requests a second came from you (after {burst} at once); slow down.",
                status=429,
                reason="rate_limited",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )


class _Bucket:
    """A token bucket: `size` requests at once, then `rate` a second."""

    def __init__(self, rate: float, size: int, now_s: float) -> None:
        self.size = size
        self._rate = rate
        self._tokens = float(size)
        self._at_s = now_s

    def tokens_at(self, now_s: float) -> float:
        """Requests that may come at once now."""
        return min(self.size, self._tokens + (now_s - self._at_s) * self._rate)

    def spend(self, now_s: float) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        self._tokens, self._at_s = self.tokens_at(now_s), now_s
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
