"""Posting held-out photos to a running service, as any client would."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
from pydantic import BaseModel, ConfigDict

from geoloc.core import part_table
from geoloc.core.errors import ServiceUnavailable
from geoloc.core.geodesy import distance_m

_TIMEOUT_S = 30.0
_COLUMNS = ("query_id", "view", "image", "heading_deg", "fov_deg", "lat", "lon")
_SENT = ("view", "heading_deg", "fov_deg")


class Post(BaseModel):
    """A photo, its true position and the service's answer; `error_m` is None when it was not located."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    true_lat: float
    true_lon: float
    lat: float | None
    lon: float | None
    radius_m: float | None
    confidence: float | None
    error_m: float | None
    milliseconds: float
    reason: str | None
    matches: list[str]


def post_photos(url: str, queries: str, count: int) -> list[Post]:
    """Post `count` photos, evenly taken from a queries table, one after the other.

    Raises `ServiceUnavailable` when the service cannot be reached or answers with an error.
    """
    table = part_table.read(queries, kind="queries", columns=_COLUMNS)
    chosen = np.unique(np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int))
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
        return [_post(client, row) for row in table.take(chosen).to_pylist()]


def _post(client: httpx.Client, row: dict[str, Any]) -> Post:
    fields = {name: str(row[name]) for name in _SENT if row[name] is not None}
    try:
        answer = client.post(
            "/v1/localize", data=fields, files={"image": ("photo.jpg", row["image"], "image/jpeg")}
        )
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise ServiceUnavailable(
            f"The service answered {error.response.status_code} to {row['query_id']}: {error.response.text[:200]}"
        ) from error
    except httpx.HTTPError as error:
        raise ServiceUnavailable(f"The service at {client.base_url} cannot be reached: {error}.") from error
    fix = answer.json()
    error_m = None
    if fix["located"]:
        error_m = round(float(distance_m(fix["lat"], fix["lon"], row["lat"], row["lon"])), 2)
    return Post(
        query_id=row["query_id"],
        true_lat=row["lat"],
        true_lon=row["lon"],
        error_m=error_m,
        milliseconds=round(1000 * answer.elapsed.total_seconds(), 1),
        matches=[match["tile_id"] for match in fix["matches"]],
        **{name: fix[name] for name in ("lat", "lon", "radius_m", "confidence", "reason")},
    )
