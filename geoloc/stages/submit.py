"""`geoloc submit`: a sub-command as a job on a Ray cluster, through `ray job submit`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.errors import ConfigError

JOBS = (
    "city",
    "ingest",
    "train",
    "compare",
    "encode",
    "index",
    "evaluate",
    "localize",
    "serve",
    "bench",
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
    """Run `geoloc submit [OPTIONS] STAGE [ITS OPTIONS]`; the exit status is that of the job.

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
    # No shell reads the words here. On the head one does: `ray job submit` quotes them for it, word by word.
    return subprocess.run(command(config, words[split:]), env=_environment(), check=False).returncode  # noqa: S603


def command(config: SubmitConfig, job: Sequence[str]) -> list[str]:
    """The `ray job submit` call for a job's words."""
    ray = Path(sys.executable).with_name("ray")
    options = [] if config.wait else ["--no-wait"]
    if config.address:
        options += ["--address", config.address]
    if config.working_dir:
        options += ["--working-dir", config.working_dir]
    return [str(ray), "job", "submit", *options, "--", "python", "-m", "geoloc", *job]


def _environment() -> dict[str, str]:
    # Clusters ask for a token by default; without the mode, the client does not even look for one.
    return {"RAY_AUTH_MODE": "token"} | dict(os.environ)
