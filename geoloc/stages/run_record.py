"""The record of a pipeline's run: settings, software, data, counts, times and costs, as JSON beside what it made.

<output>/runs/<run_id>.json    rewritten after each stage; `status` is running, finished or failed
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.evaluation.report.provenance import environment, table_fingerprint

RUNS = "runs"
_VERSION = 1


class StageRecord(BaseModel):
    """One stage of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reused: bool = Field(description="Whether an earlier run had made everything.")
    seconds: float
    cpu_seconds: float = Field(description="Sum of the CPUs that were reserved on the cluster, over time.")
    gpu_seconds: float
    outputs: dict[str, str] = Field(description="URIs of what the stage made.")
    fingerprints: dict[str, str] = Field(description="SHA-256 over the content of each table, or an id.")
    counts: dict[str, int]


class RunRecord(BaseModel):
    """A whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = _VERSION
    run_id: str
    status: Literal["running", "finished", "failed"] = "running"
    error: str | None = None
    started: str
    ended: str | None = None
    config_uri: str
    config_sha256: str
    config: dict[str, Any]
    environment: dict[str, Any]
    stages: tuple[StageRecord, ...] = ()

    @classmethod
    def begin(
        cls, output: str, run_id: str, config_uri: str, content: bytes, config: dict[str, Any]
    ) -> RunRecord:
        """The record of a run that starts now; a second run of the same id into one output is `<run_id>-2`."""
        return cls(
            run_id=_unused(output, run_id),
            started=_now(),
            config_uri=config_uri,
            config_sha256=storage.sha256_bytes(content),
            config=config,
            environment=environment(),
        )

    def with_stage(self, stage: StageRecord) -> RunRecord:
        """The record with one more stage."""
        return self.model_copy(update={"stages": (*self.stages, stage)})

    def end(self, error: str | None = None) -> RunRecord:
        """The record of a run that ends now; `error` is the sentence of one that failed."""
        status = "finished" if error is None else "failed"
        return self.model_copy(update={"status": status, "error": error, "ended": _now()})

    def save(self, output: str) -> str:
        """Write the record below `output`; returns its URI."""
        uri = storage.join(output, RUNS, f"{self.run_id}.json")
        storage.write_bytes(uri, (self.model_dump_json(indent=1) + "\n").encode())
        return uri


def _unused(output: str, run_id: str) -> str:
    names = itertools.chain([run_id], (f"{run_id}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not storage.exists(storage.join(output, RUNS, f"{name}.json")))


def tables_of(root: str) -> tuple[dict[str, str], dict[str, int]]:
    """Fingerprints and rows of the finished tables `tiles`, `queries`, `pairs` and `codes` below a URI."""
    fingerprints: dict[str, str] = {}
    rows: dict[str, int] = {}
    for name in ("tiles", "queries", "pairs", "codes"):
        uri = storage.join(root, name)
        if storage.exists(storage.join(uri, part_table.MANIFEST_NAME)):
            fingerprints[name] = table_fingerprint(uri)
            rows[name] = part_table.read_manifest(uri).rows
    return fingerprints, rows


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
