"""`geoloc submit`: a sub-command as a job on a Ray cluster, through `ray job submit`."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.errors import ConfigError
from geoloc.core.progress import say

JOBS = (
    "city",
    "ingest",
    "train",
    "fit-codes",
    "augment-model",
    "compare",
    "encode",
    "index",
    "calibrate",
    "evaluate",
    "codes",
    "localize",
    "serve",
    "bench",
    "pipeline",
    "demo",
)
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


class SubmitConfig(BaseModel):
    """The cluster that a job goes to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = Field(
        None, description=f"Dashboard of the cluster, http://host:8265; default: ${_ADDRESS_VARIABLE}."
    )
    working_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = Field(
        None, description="Directory to ship with the job; needed where geoloc is not installed."
    )
    wait: Annotated[
        bool,
        tyro.conf.arg(help="Return at once instead of showing the job's output.", help_behavior_hint=""),
    ] = True


def submit(words: Sequence[str]) -> int:
    """Run `geoloc submit [OPTIONS] STAGE [ITS OPTIONS]`; the exit status is that of the job, which Ctrl-C stops.

    URIs are opened by the cluster's machines: paths must be on storage that they share. Raises `ConfigError`
    when no stage or no cluster is named.
    """
    split = next((place for place, word in enumerate(words) if word in JOBS), len(words))
    config = tyro.cli(
        Annotated[SubmitConfig, tyro.conf.arg(name="")],
        prog="geoloc submit",
        description=f"Runs one of {', '.join(JOBS)} as a job: geoloc submit [OPTIONS] STAGE [ITS OPTIONS].",
        args=list(words[:split]),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if split == len(words):
        raise ConfigError(f"Name the stage to submit after the options, one of {', '.join(JOBS)}.")
    if not (config.address or os.environ.get(_ADDRESS_VARIABLE)):
        raise ConfigError(f"Say which cluster: pass --address http://host:8265 or set {_ADDRESS_VARIABLE}.")
    job_id = f"geoloc-{words[split]}-{uuid.uuid4().hex[:8]}"
    try:
        # No shell reads the words here. On the head one does: `ray job submit` quotes them for it, word by word.
        return _call(command(config, words[split:], job_id))
    except KeyboardInterrupt:
        say(f"submit: stopping the job {job_id}")
        _call(stop_command(config, job_id))
        raise


def command(config: SubmitConfig, job: Sequence[str], job_id: str) -> list[str]:
    """The `ray job submit` call for a job's words."""
    options = [] if config.wait else ["--no-wait"]
    if config.working_dir:
        options += ["--working-dir", config.working_dir]
    call = [*_ray_job("submit", config), "--submission-id", job_id, *options]
    return [*call, "--", "python", "-m", "geoloc", *job]


def stop_command(config: SubmitConfig, job_id: str) -> list[str]:
    """The `ray job stop` call for a job."""
    return [*_ray_job("stop", config), job_id]


def _ray_job(verb: str, config: SubmitConfig) -> list[str]:
    ray = Path(sys.executable).with_name("ray")
    return [str(ray), "job", verb, *(["--address", config.address] if config.address else [])]


def _call(words: list[str]) -> int:
    return subprocess.run(words, env=_environment(), check=False).returncode  # noqa: S603


def _environment() -> dict[str, str]:
    # Clusters ask for a token by default; without the mode, the client does not even look for one.
    return {"RAY_AUTH_MODE": "token"} | dict(os.environ)
