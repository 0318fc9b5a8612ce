"""The Serve application: an HTTP ingress, an encoder and a search deployment, built from one set of arguments.

`build_app` is what a Serve configuration names as its import path (`deploy/serve.yaml`).
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import Any, Self

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from geoloc.client.schema import INDEX_NAME
from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.localization.localizer import MIN_CONFIDENCE
from geoloc.localization.locator import ASYMMETRIC_HELP
from geoloc.localization.query_photos import HEADINGS
from geoloc.serving.access import KeyEntry, read_keys
from geoloc.serving.answer import Pin, ServedIndex
from geoloc.serving.api import create_api
from geoloc.serving.backend import DEFAULT_INDEX, ReplicaBackend
from geoloc.serving.catalog import CATALOG, ENCODER, INGRESS, SEARCH, CatalogReplica
from geoloc.serving.imagery import TileImagery
from geoloc.serving.limits import ServingLimits
from geoloc.serving.replicas import EncoderReplica, SearchReplica

# One line per request and replica would drown what matters; an access log belongs to whatever stands in front.
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_START: dict[str, Any] = {
    "start": True
}  # Serve calls `reconfigure` of a new replica only where there is something


class ServeArgs(BaseModel):
    """What the service is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    snapshot_id: str | None = Field(default=None, description="Id of the snapshot; default: the current one.")
    indices: dict[str, str] = Field(
        default_factory=dict,
        description="More indices: a name and a URI each; requests choose one by its name.",
    )
    imagery: str | None = Field(
        default=None, description="URI of a table of tiles (geoloc ingest), whose pictures the page shows."
    )
    watch_s: float = Field(
        default=10.0,
        ge=0,
        description="Seconds between looks at an index for a new current snapshot, to serve it; 0: only when asked.",
    )
    keys: str | None = Field(
        default=None, description="File of API keys (geoloc serve key makes them); default: nobody needs one."
    )
    requests_per_s: float = Field(
        default=0.0, ge=0, description="Requests a second that a client may send to an ingress; 0: any."
    )
    burst: int = Field(default=20, ge=1, description="Requests that may come at once before that counts.")
    device: str = Field(default="auto", description="Where the model runs: auto, cpu or cuda.")
    encoder_threads: int | None = Field(default=None, ge=1, description="CPU threads of an encoder.")
    encoder_replicas: int = Field(default=1, ge=1, description="Processes that encode photos.")
    search_replicas: int = Field(default=1, ge=1, description="Processes that hold the index and search it.")
    ingress_replicas: int = Field(default=1, ge=1, description="Processes that take HTTP requests.")
    max_encoder_replicas: int | None = Field(
        default=None, ge=1, description="Encoders at most: more are started under load; default: no more."
    )
    max_search_replicas: int | None = Field(
        default=None, ge=1, description="Search processes at most; default: no more than always run."
    )
    max_ingress_replicas: int | None = Field(
        default=None, ge=1, description="Ingress processes at most; default: no more than always run."
    )
    target_ongoing_requests: float = Field(
        default=4.0,
        gt=0,
        description="Requests at once that a replica is to have; above, replicas are added.",
    )
    scale_up_after_s: float = Field(
        default=30.0, ge=0, description="Seconds that more replicas must be needed before they are started."
    )
    scale_down_after_s: float = Field(
        default=600.0, ge=0, description="Seconds that fewer replicas must do before some are ended."
    )
    cpus_per_replica: float = Field(
        default=0.25, ge=0, description="CPUs that each replica reserves of the cluster."
    )
    headings: int = Field(
        default=HEADINGS, ge=1, description="Headings to try for a photo of unknown heading."
    )
    rerank: int = Field(default=100, ge=0, description="Nearest codes to order by float embeddings.")
    asymmetric: bool = Field(default=True, description=ASYMMETRIC_HELP)
    min_confidence: float = Field(
        default=MIN_CONFIDENCE,
        ge=0,
        le=1,
        description="Photos with a lower calibrated confidence count as not located.",
    )
    uncalibrated: bool = Field(
        default=False,
        description="Give positions also to kinds of query without a calibration, with no promise.",
    )
    max_batch: int = Field(default=16, ge=1, description="Photos that are encoded, or searched, together at most.")
    batch_wait_s: float = Field(
        default=0.0, ge=0, description="Seconds that an idle encoder waits for more photos to share a batch."
    )
    decoders: int = Field(
        default=2, ge=1, description="Processes of an ingress that decode photos, apart from the server."
    )
    max_in_flight: int = Field(
        default=64, ge=1, description="Requests that an ingress handles at once; further ones get 503."
    )
    deadline_s: float = Field(
        default=15.0, gt=0, description="Seconds that a request may take; then it gets 504."
    )

    @field_validator("indices")
    @classmethod
    def _plain_names(cls, indices: dict[str, str]) -> dict[str, str]:
        for name in indices:
            if name == DEFAULT_INDEX or re.fullmatch(INDEX_NAME, name) is None:
                raise ValueError(
                    f"{name!r} cannot name an index: use letters, digits, . _ -, and not {DEFAULT_INDEX}"
                )
        return indices

    def replicas(self, deployment: str) -> dict[str, Any]:
        """Serve's options for how many replicas a deployment has: a number, or a range that follows the load."""
        name = deployment.lower()
        least: int = getattr(self, f"{name}_replicas")
        most: int | None = getattr(self, f"max_{name}_replicas")
        if most is None or most == least:
            return {"num_replicas": least}
        scaling = AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            target_ongoing_requests=self.target_ongoing_requests,
            upscale_delay_s=self.scale_up_after_s,
            downscale_delay_s=self.scale_down_after_s,
        )
        return {"autoscaling_config": scaling}

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("encoder", "search", "ingress"):
            least, most = getattr(self, f"{name}_replicas"), getattr(self, f"max_{name}_replicas")
            if most is not None and most < least:
                raise ValueError(f"max_{name}_replicas ({most}) is less than {name}_replicas ({least})")
        return self

    def limits(self) -> ServingLimits:
        """The limits of the HTTP interface."""
        return ServingLimits(
            max_in_flight=self.max_in_flight,
            deadline_s=self.deadline_s,
            decoders=self.decoders,
            requests_per_s=self.requests_per_s,
            burst=self.burst,
            max_bodies=4 * self.max_in_flight,
            max_bodies_per_client=self.max_in_flight,
        )

    def served(self) -> dict[str, ServedIndex]:
        """All indices by name, with absolute URIs."""
        first = ServedIndex(uri=storage.absolute(self.index), snapshot_id=self.snapshot_id)
        others = {name: ServedIndex(uri=storage.absolute(uri)) for name, uri in self.indices.items()}
        return {DEFAULT_INDEX: first, **others}


class IngressReplica:
    """Receives HTTP, decodes and validates, and hands photos to the replicas behind."""

    def __init__(
        self,
        catalog: DeploymentHandle[Any],
        encoder: DeploymentHandle[Any],
        search: DeploymentHandle[Any],
        limits: ServingLimits,
        keys: tuple[KeyEntry, ...],
        imagery: str | None,
    ) -> None:
        self._backend = ReplicaBackend(catalog, encoder, search)
        self._limits = limits
        self._keys = keys
        self._imagery = None if imagery is None else TileImagery(imagery)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve on the replica, after the constructor."""
        # It writes pieces of malformed bodies to the log; the sender is told what is wrong instead.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        return create_api(self._backend, self._limits, keys=self._keys, imagery=self._imagery)

    async def adopt(self, pin: Pin) -> None:
        """The catalog says that an index is now served from another snapshot."""
        self._backend.adopt(pin)


def build_app(args: dict[str, Any]) -> Application:
    """The Serve application for `ServeArgs` given as a mapping; `ConfigError` for a bad one.

    The catalog resolves the snapshots once, and rolls over to another one in order: when an index gets a new current
    snapshot (`watch_s`), by `ServeHandle.reload`, or by `geoloc serve reload`.
    """
    chosen = _validated(args)
    keys = read_keys(chosen.keys) if chosen.keys else ()
    cpus = {"num_cpus": chosen.cpus_per_replica}
    # What one ingress lets in fits into these queues; several ingresses can fill them, and then get 503.
    queued = 2 * chosen.max_in_flight
    catalog = _deployment(
        CatalogReplica, name=CATALOG, num_replicas=1, ray_actor_options={"num_cpus": 0}, user_config=_START
    ).bind(secrets.token_hex(8), chosen.served(), chosen.watch_s)
    encoder = _encoder(chosen, cpus, queued).bind(
        catalog,
        device=chosen.device,
        threads=chosen.encoder_threads,
        headings=chosen.headings,
        max_batch=chosen.max_batch,
        wait_s=chosen.batch_wait_s,
    )
    search = _deployment(
        SearchReplica,
        name=SEARCH,
        **chosen.replicas(SEARCH),
        ray_actor_options=cpus,
        # All that the encoders let through: they wait here, to be answered together, not in Serve's queues, whose
        # looks for a free replica cost more than the answer.
        max_ongoing_requests=queued,
        user_config=_START,
        max_queued_requests=queued,
    ).bind(
        catalog,
        rerank=chosen.rerank,
        min_confidence=chosen.min_confidence,
        uncalibrated=chosen.uncalibrated,
        asymmetric=chosen.asymmetric,
        max_batch=chosen.max_batch,
    )
    limits = chosen.limits()
    ingress = _deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        **chosen.replicas(INGRESS),
        ray_actor_options=cpus,
        # Above what the ingress itself lets in: it refuses with a reason and a time to come back, Serve does not.
        max_ongoing_requests=2 * (limits.max_bodies + limits.max_in_flight),
    )
    app: Application = ingress.bind(
        catalog, encoder, search, limits, keys, chosen.imagery and storage.absolute(chosen.imagery)
    )
    return app


def _encoder(chosen: ServeArgs, cpus: dict[str, float], queued: int) -> Any:
    gpus = {"num_gpus": 1} if chosen.device.startswith("cuda") else {}
    return _deployment(
        EncoderReplica,
        name=ENCODER,
        **chosen.replicas(ENCODER),
        ray_actor_options=cpus | gpus,
        max_ongoing_requests=queued,
        user_config=_START,
        max_queued_requests=queued,
    )


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
