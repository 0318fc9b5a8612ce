"""What travels between the interface and the replicas behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.arrays import Pixels
from geoloc.core.errors import GeolocError
from geoloc.index.format.manifest import Bounds
from geoloc.index.search.region import Region
from geoloc.localization.fix import Fix
from geoloc.localization.query_photos import Compass
from geoloc.localization.routes.filter import FilterState
from geoloc.localization.routes.motion import Step
from geoloc.localization.routes.route_answer import RouteFix
from geoloc.recipe.model import ModelInputs

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Owner = TypeVar("Owner")


class ServedIndex(BaseModel):
    """An index that the service answers from; without `snapshot_id` its current snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(description="URI of the index.")
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")


class Pin(BaseModel):
    """The snapshot that an index of the service is answered from, and the model that made it.

    A request carries its pin to every replica, so that no answer mixes snapshots. `generation` rises with every
    change; `current_id` is what was current in the index then. `proven` says that a replica has opened the snapshot
    whole: one that starts later may lack broken shards. `inputs` are the pictures that the model takes.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    uri: str
    snapshot_id: str
    current_id: str
    model_id: str
    generation: int = 0
    proven: bool = False
    tiles: int
    bits: int
    shards: int
    located: bool
    bounds: Bounds | None
    inputs: ModelInputs


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo as its model takes it: image uint8[h, w, 3], and what is known and assumed of the photo.

    heading_deg is None where the heading is unknown or a `compass`'s.
    """

    image: Pixels
    view: str
    heading_deg: float | None
    fov_deg: float
    assumed: tuple[str, ...]
    featureless: bool
    compass: Compass | None = None


@dataclass(frozen=True)
class Query:
    """What is asked about a photo. `complete`: refuse when a shard could not be searched."""

    k: int = 10
    region: Region | None = None
    rerank: int | None = None
    complete: bool = False


@dataclass(frozen=True)
class Answer:
    """A fix from one snapshot, with what answered and how long it took."""

    fix: Fix
    model_id: str
    shards_answered: int
    shards_total: int
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RouteQuery:
    """The next photos of a route: what is known of the way to each, the area, and the state before; None at first."""

    steps: tuple[Step, ...]
    region: Region | None
    places: int | None = None
    before: FilterState | None = None


@dataclass(frozen=True)
class RouteReply:
    """The answer to photos of a route, with the state after them on a map of so many places."""

    fix: RouteFix
    after: FilterState
    places: int
    model_id: str
    shards_answered: int
    shards_total: int
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplicaState:
    """What one replica holds: ids of open snapshots or models by the name of their index."""

    deployment: str
    open: dict[str, tuple[str, ...]]
    calibrated: dict[str, bool] = field(default_factory=dict)
    broken_shards: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A refusal that travels as a value: Serve writes an exception's stack trace to the replica's log."""

    error: GeolocError


def refusals_as_values(
    method: Callable[Concatenate[Owner, Parameters], Awaitable[Result]],
) -> Callable[Concatenate[Owner, Parameters], Awaitable[Result | Refused]]:
    """A replica's method that returns a `GeolocError` as `Refused`; anything else that it raises is a bug of ours."""

    @wraps(method)
    async def answered(owner: Owner, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result | Refused:
        try:
            return await method(owner, *args, **kwargs)
        except GeolocError as error:
            return Refused(error.with_traceback(None))

    return cast(Callable[Concatenate[Owner, Parameters], Awaitable[Result | Refused]], answered)
