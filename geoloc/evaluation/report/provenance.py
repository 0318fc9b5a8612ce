"""Where a figure comes from: the data by fingerprint, the recipe, the software and the machine."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import geoloc
from geoloc.core import part_table, storage
from geoloc.core.errors import CorruptArtifact
from geoloc.core.schemas import NOTE_NAME

_PACKAGES = ("numpy", "torch", "faiss-cpu", "pyarrow", "ray", "numba")


def dataset_note(uri: str) -> dict[str, Any] | None:
    """The note of an ingest output about its data set (`dataset.json`); None for data that are no data set's.

    Raises `CorruptArtifact` when the file is not a JSON object.
    """
    note = storage.join(uri, NOTE_NAME)
    if not storage.exists(note):
        return None
    try:
        content = json.loads(storage.read_text(note))
    except ValueError as error:
        raise CorruptArtifact(f"{note!r} is not JSON; run the ingest again.") from error
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{note!r} is not a JSON object; run the ingest again.")
    return content


def data_fingerprints(queries: str, tiles: str, snapshot_id: str) -> dict[str, Any]:
    """Fingerprints of the tables that were evaluated, null for those that are not there, and the snapshot's id.

    Two runs with equal fingerprints saw the same bytes in the same order.
    """
    found: dict[str, Any] = {"snapshot": snapshot_id}
    for kind, root in (("queries", queries), ("pairs", queries), ("tiles", tiles)):
        uri = storage.join(root, kind)
        there = storage.exists(storage.join(uri, part_table.MANIFEST_NAME))
        found[kind] = table_fingerprint(uri) if there else None
    note = dataset_note(queries)
    if note is not None:
        found["dataset"] = {key: note.get(key) for key in ("name", "split", "fingerprint")}
    return found


def table_fingerprint(uri: str) -> str:
    """SHA-256 over the checksums of a table's parts."""
    return storage.sha256_bytes(
        "\n".join(part.sha256 for part in part_table.read_manifest(uri).parts).encode()
    )


def recipe_of(model_uri: str) -> dict[str, Any]:
    """The recipe that lies beside a model's weights."""
    content = yaml.safe_load(storage.read_text(storage.join(model_uri, "recipe.yaml")))
    return content if isinstance(content, dict) else {}


def environment() -> dict[str, Any]:
    """Versions, machine, cores and, in a checkout, the commit."""
    versions: dict[str, str | None] = {}
    for name in ("geoloc", *_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": _commit(Path(geoloc.__file__).resolve().parents[1]),
    }


def _processor() -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _commit(checkout: Path) -> str | None:
    """The commit that HEAD names, from git's files; None outside a checkout."""
    head = checkout / ".git" / "HEAD"
    if not head.is_file():
        return None
    text = head.read_text().strip()
    if not text.startswith("ref: "):
        return text
    name = text.removeprefix("ref: ")
    ref, packed = checkout / ".git" / name, checkout / ".git" / "packed-refs"
    if ref.is_file():
        return ref.read_text().strip()
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
