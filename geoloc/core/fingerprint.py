"""Fingerprints: what an output is made from, and whether a stage may reuse, replace or must refuse an output.

A fingerprint covers a version, the settings and the inputs. Inputs count by content, never by URI: a moved input
is the same one, a changed input at the same URI is another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from geoloc.core import storage
from geoloc.core.errors import ArtifactError

PLAN_NAME = "plan.json"
_READERS = 8  # on object stores the time goes into waiting


def fingerprint_of(content: object) -> str:
    """Hexadecimal SHA-256 of JSON-able content; the order of keys does not matter."""
    return storage.sha256_bytes(json.dumps(content, sort_keys=True, default=str).encode())


def file_fingerprints(uris: Sequence[str]) -> list[str | None]:
    """What identifies the content of each raw file (`storage.content_tag`); None for a file that is missing."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(storage.content_tag, uris))


def begin_output(
    output: str, fingerprint: str, *, record: str, what: str, overwrite: bool = False, shared: bool = False
) -> bytes | None:
    """Open an output for writing: the bytes of its record when it is finished, None when there is work to do.

    `record` names the JSON file that the stage writes last. Work of another fingerprint is refused with
    `ArtifactError`; `overwrite` removes it. Normally the directory belongs to the stage: `plan.json` holds the
    fingerprint from the start, and the whole directory is removed. In a `shared` directory the record itself holds
    the fingerprint, and the record alone is removed.
    """
    record_uri = storage.join(output, record)
    holder = record_uri if shared else storage.join(output, PLAN_NAME)
    held = storage.exists(holder)
    if held and _read(holder) != fingerprint:
        problem = (
            f"holds {what} made from other inputs or settings; pass --overwrite to replace it, or choose another "
            "output."
        )
    elif not held and not shared and storage.list_files(output):
        problem = "already holds other files; choose an empty output or pass --overwrite."
    else:
        problem = ""
    if problem and not overwrite:
        raise ArtifactError(f"{output!r} {problem}")
    if problem:
        storage.delete(record_uri)  # first: a reader never finds a record without its files
        if not shared:
            storage.delete(output)
    if not shared and (problem or not held):
        storage.write_bytes(holder, json.dumps({"fingerprint": fingerprint}).encode() + b"\n")
    return storage.read_bytes(record_uri) if storage.exists(record_uri) else None


def _read(uri: str) -> str | None:
    """The fingerprint that a JSON file holds; None where it holds none."""
    try:
        content = json.loads(storage.read_bytes(uri))
    except ValueError:
        return None
    return content.get("fingerprint") if isinstance(content, dict) else None
