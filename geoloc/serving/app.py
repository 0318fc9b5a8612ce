"""The Serve application: an HTTP ingress, an encoder and a search deployment, built from one set of arguments.

`build_app` is what a Serve configuration names as its import path (`deploy/serve.yaml`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.index.search.region import Region
from geoloc.localization.localizer import MIN_CONFIDENCE
from geoloc.localization.query_photos import HEADINGS, Photo
from geoloc.serving.answer import Answer
from geoloc.serving.api import create_api
from geoloc.serving.errors import Overloaded
from geoloc.serving.limits import ServingLimits
from geoloc.serving.replicas import EncoderReplica, SearchReplica
from geoloc.serving.schema import Health

INGRESS, ENCODER, SEARCH = "Ingress", "Encoder", "Search"
# One line per request and replica would drown what matters; an access log belongs to whatever stands in front.
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


class ServeArgs(BaseModel):
    """What the service is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")
    device: str = Field(default="auto", description="Where the model runs: auto, cpu or cuda.")
    encoder_threads: int | None = Field(default=None, ge=1, description="CPU threads of an encoder.")
    encoder_replicas: int = Field(default=1, ge=1, description="Processes that encode photos.")
    search_replicas: int = Field(default=1, ge=1, description="Processes that hold the index and search it.")
    ingress_replicas: int = Field(default=1, ge=1, description="Processes that take HTTP requests.")
    cpus_per_replica: float = Field(
        default=0.25, ge=0, description="CPUs that each replica reserves of the cluster."
    )
    headings: int = Field(
        default=HEADINGS, ge=1, description="Headings to try for a photo of unknown heading."
    )
    rerank: int = Field(default=100, ge=0, description="Nearest codes to order by float embeddings.")
    min_confidence: float = Field(
        default=MIN_CONFIDENCE,
        ge=0,
        le=1,
        description="Photos with a lower calibrated confidence count as not located.",
    )
    max_batch: int = Field(default=16, ge=1, description="Photos in an encoding batch at most.")
    batch_wait_s: float = Field(
        default=0.004, ge=0, description="Seconds that a photo waits for others to share its batch."
    )
    max_in_flight: int = Field(
        default=64, ge=1, description="Requests that an ingress handles at once; further ones get 503."
    )
    deadline_s: float = Field(
        default=15.0, gt=0, description="Seconds that a request may take; then it gets 504."
    )

    def limits(self) -> ServingLimits:
        """The limits of the HTTP interface."""
        return ServingLimits(max_in_flight=self.max_in_flight, deadline_s=self.deadline_s)


class ReplicaBackend:
    """The interface's `Backend`: asks the encoder, then the search replica."""

    def __init__(self, encoder: DeploymentHandle[Any], search: DeploymentHandle[Any]) -> None:
        self._encoder = encoder
        self._search = search

    async def locate(self, one: Photo, region: Region | None, k: int) -> Answer:
        """Encode and search; the answer comes from one snapshot."""
        started = time.perf_counter()
        queries = await _result_of(self._encoder.encode.remote(one))
        encoded = {"encode": 1e3 * (time.perf_counter() - started)}
        answer: Answer = await _result_of(self._search.locate.remote(queries, region, k))
        return replace(answer, timings_ms=encoded | answer.timings_ms)

    async def health(self) -> Health:
        """What is being served."""
        health: Health = await _result_of(self._search.health.remote())
        return health


async def _result_of(response: Any) -> Any:
    """The result of a call to a replica, its errors as they were raised there."""
    try:
        return await response
    except (BackPressureError, DeploymentUnavailableError) as error:
        raise Overloaded("All replicas are busy; try again in a moment.") from error
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from None


class IngressReplica:
    """Receives HTTP, decodes and validates, and hands photos to the replicas behind."""

    def __init__(
        self, encoder: DeploymentHandle[Any], search: DeploymentHandle[Any], limits: ServingLimits
    ) -> None:
        self._backend = ReplicaBackend(encoder, search)
        self._limits = limits

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve on the replica, after the constructor."""
        # It writes pieces of malformed bodies to the log; the sender is told what is wrong instead.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        return create_api(self._backend, self._limits)


def build_app(args: dict[str, Any]) -> Application:
    """The Serve application for `ServeArgs` given as a mapping; `ConfigError` for a bad one.

    From a Serve configuration file, another snapshot is served by naming it in the deployments' `user_config`
    and deploying again: replicas swap to it without a restart. In a program, `ServeHandle.reload` does it.
    """
    chosen = _validated(args)
    index = storage.absolute(chosen.index)
    cpus = {"num_cpus": chosen.cpus_per_replica}
    gpus = {"num_gpus": 1} if chosen.device.startswith("cuda") else {}
    config = {"snapshot_id": chosen.snapshot_id}
    # What one ingress lets in fits into these queues; several ingresses can fill them, and then get 503.
    queued = 2 * chosen.max_in_flight
    encoder = _deployment(
        EncoderReplica,
        name=ENCODER,
        num_replicas=chosen.encoder_replicas,
        ray_actor_options=cpus | gpus,
        max_ongoing_requests=2 * chosen.max_batch,
        user_config=config,
        max_queued_requests=queued,
    ).bind(
        index,
        device=chosen.device,
        threads=chosen.encoder_threads,
        headings=chosen.headings,
        max_batch=chosen.max_batch,
        wait_s=chosen.batch_wait_s,
    )
    search = _deployment(
        SearchReplica,
        name=SEARCH,
        num_replicas=chosen.search_replicas,
        ray_actor_options=cpus,
        max_ongoing_requests=8,
        user_config=config,
        max_queued_requests=queued,
    ).bind(index, rerank=chosen.rerank, min_confidence=chosen.min_confidence)
    ingress = _deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        num_replicas=chosen.ingress_replicas,
        ray_actor_options=cpus,
        # Above what the ingress itself lets in: it refuses with a reason and a time to come back, Serve does not.
        max_ongoing_requests=4 * chosen.max_in_flight,
    )
    app: Application = ingress.bind(encoder, search, chosen.limits())
    return app


def _deployment(replica: type, **options: Any) -> Any:
    # Serve's own annotations promise a decorator here, not the deployment that it returns for a class.
    return serve.deployment(replica, logging_config=_LOGGING, graceful_shutdown_wait_loop_s=0.5, **options)


def _validated(args: dict[str, Any] | ServeArgs) -> ServeArgs:
    if isinstance(args, ServeArgs):
        return args
    try:
        return ServeArgs.model_validate(args)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "arguments"
        raise ConfigError(f"The service's arguments are unusable: {where}: {first['msg']}.") from error
