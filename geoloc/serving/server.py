"""Start and stop the service on this machine's Ray."""

from __future__ import annotations

import ipaddress
import logging
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import ray
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.schema import LoggingConfig

from geoloc.client.client import OPEN_TIMEOUT_S, Client
from geoloc.core import storage
from geoloc.core.errors import ConfigError, ServiceUnavailable
from geoloc.core.progress import say
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.manifest import read_manifest
from geoloc.runtime.ray_session import ensure_ray
from geoloc.serving.access import read_keys
from geoloc.serving.answer import Pin, Refused
from geoloc.serving.app import ServeArgs, build_app
from geoloc.serving.backend import DEFAULT_INDEX
from geoloc.serving.catalog import CATALOG
from geoloc.serving.desktop import open_page

APPLICATION = "geoloc"
_HEALTH_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0


class ServeConfig(ServeArgs):
    """What to serve and where to listen."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; any other than loopback is public."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    insecure: bool = Field(
        default=False, description="Listen on a public address although nobody needs a key."
    )

    browser: bool = Field(
        default=True,
        description="Open the page in the desktop's browser, where there is a display and a terminal.",
    )

    def args(self) -> ServeArgs:
        """The part that the application is built from."""
        return ServeArgs(**self.model_dump(exclude={"host", "port", "insecure", "browser"}))

    def check_host(self) -> None:
        """`ConfigError` for an address that others reach, unless there are keys or it is wanted so."""
        if not (self.keys or self.insecure or _is_loopback(self.host)):
            raise ConfigError(
                f"{self.host} can be reached by others, and nobody would need a key: give --keys (geoloc serve key "
                "makes them), listen on 127.0.0.1, or say --insecure."
            )


@dataclass
class ServeHandle:
    """A running service; `stop` ends it."""

    url: str
    config: ServeConfig

    def reload(self, snapshot_id: str | None = None, *, name: str = DEFAULT_INDEX) -> str:
        """Serve another snapshot (None: the current one) without dropping a request; returns its id.

        Replicas that start later serve it too. Raises `ArtifactError` when there is no such snapshot, and what a
        replica raised that could not open it; the old one is served on.
        """
        catalog = serve.get_deployment_handle(CATALOG, APPLICATION)
        answer: Pin | Refused = catalog.reload.remote(name, snapshot_id).result(timeout_s=OPEN_TIMEOUT_S)
        if isinstance(answer, Refused):
            raise answer.error
        return answer.snapshot_id

    def stop(self) -> None:
        """End the service; Ray keeps running."""
        _end_controller()
        serve.shutdown()  # type: ignore[no-untyped-call]


def start(config: ServeConfig) -> ServeHandle:
    """Serve an index and return once it answers.

    Raises `ArtifactError` when there is no such index or snapshot, `ConfigError` for a port that is taken and
    `ServiceUnavailable` when the replicas do not come up, or the Ray cluster serves already.
    """
    config.check_host()
    for served in config.served().values():
        read_manifest(served.uri, served.snapshot_id or current_snapshot(served.uri))
    if config.keys:
        read_keys(config.keys)
    port = _port(config.host, config.port)
    ensure_ray()
    if _controller() is not None:  # Serve has one port and one application of this name in a cluster
        raise ServiceUnavailable(
            "This Ray cluster serves already; stop that service first (serve shutdown), or use another cluster."
        )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": config.host, "port": port},
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # again: `serve.start` sets Serve's own level
    handle = ServeHandle(f"http://{_url_host(config.host)}:{port}", config)
    try:
        _deploy(config.args())
        _check_answers(handle.url)
    except BaseException:  # also Ctrl-C: what was started here must not be left behind
        handle.stop()
        raise
    return handle


def serve_blocking(config: ServeConfig) -> None:
    """Serve an index over HTTP until Ctrl-C or SIGTERM."""
    ensure_ray()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.default_int_handler
        )  # after Ray, which answers SIGTERM with a stack trace
    handle = start(config)
    try:
        say(
            f"Serving {config.index} at {handle.url} (POST /v1/localize, a page for people at /); Ctrl-C ends it."
        )
        if config.browser:
            open_page(handle.url)
        threading.Event().wait()
    except KeyboardInterrupt:
        say("Stopping the service.")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave replicas behind
        handle.stop()


def _controller() -> Any:
    """The actor that runs Serve in this cluster; None where nothing is served."""
    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def _end_controller() -> None:
    """End Serve's controller and wait until it is gone.

    `serve.shutdown` alone waits in a call that ends by the controller's death. Calls to the controller are repeated
    for ever, so Ray then prints that the call failed although nothing went wrong.
    """
    try:
        if (controller := _controller()) is None:
            return
        ray.get(controller.graceful_shutdown.remote(wait=False), timeout=_STOP_TIMEOUT_S)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while _controller() is not None and time.monotonic() < deadline:
            time.sleep(0.1)
    except RayError:  # it ended while it was asked
        return


def _deploy(args: ServeArgs) -> None:
    try:
        serve.run(build_app(args.model_dump()), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        detail = _reason() or " ".join(str(error).split())[:300]
        raise ServiceUnavailable(f"The service did not come up: {detail}") from error


def _check_answers(url: str) -> None:
    """`ServiceUnavailable` unless the service answers where it is to listen."""
    try:
        httpx.get(f"{url}/healthz", timeout=_HEALTH_TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"The service does not answer at {url} ({error}); choose another port, or run geoloc serve on the head of "
            "the cluster, where Serve listens."
        ) from error


def _reason() -> str | None:
    """Why a replica failed to start: the sentence of our own error in Serve's report."""
    application = serve.status().applications.get(APPLICATION)
    for deployment in application.deployments.values() if application else ():
        if sentences := re.findall(r"geoloc\.core\.errors\.\w+: (.+)", deployment.message):
            return str(sentences[-1]).strip()
    return None


def _port(host: str, port: int) -> int:
    """The port to listen on, checked to be free; for 0 one that is."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0 for a free one."
            ) from error
        return int(probe.getsockname()[1])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 (only shown, not bound)
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


class Reloaded(BaseModel):
    """What a running service now serves."""

    index: str
    snapshot_id: str

    def text(self) -> str:
        """The same as a sentence."""
        return f"Index {self.index} is served from snapshot {self.snapshot_id}."


def reload(
    url: str, *, index_name: str = DEFAULT_INDEX, snapshot: str | None = None, key_file: str | None = None
) -> Reloaded:
    """Have a running service serve another snapshot of an index (None: its current one).

    `key_file` holds an API key of the scope admin. Raises `ServiceUnavailable` when the service cannot be reached,
    and `QueryError` with its sentence when it refuses; the old snapshot is then served on.
    """
    key = storage.read_bytes(key_file).decode().strip() if key_file else None
    with Client(url, key=key) as service:
        return Reloaded(index=index_name, snapshot_id=service.reload(index_name, snapshot).snapshot_id)
