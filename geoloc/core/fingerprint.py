"""Fingerprints: what an output is made from, and whether a stage may reuse, replace or must refuse an output.

A fingerprint covers a version, the settings and the inputs. Inputs count by content, never by URI: a moved input
is the same one, a changed input at the same URI is another.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, StorageError, StoreUnavailable
from geoloc.core.lease import LEASE_NAME, Lease

PLAN_NAME = "plan.json"
_READERS = 8  # on object stores the time goes into waiting
_FILES_AT_ONCE, _FILES_A_TURN = 4096, 32


class Streamed:
    """Items of a long list within the content of a fingerprint, which are never all in memory.

    The fingerprint is that of the list itself.
    """

    def __init__(self, items: Iterable[object]) -> None:
        self._items = items

    def pieces(self) -> Iterator[str]:
        """The JSON text of the list, piece by piece."""
        yield "["
        for number, item in enumerate(self._items):
            yield f"{', ' if number else ''}{_json(item)}"
        yield "]"


def fingerprint_of(content: object) -> str:
    """Hexadecimal SHA-256 of JSON-able content; the order of keys does not matter.

    A list may hold `Streamed` lists.
    """
    if not isinstance(content, list):
        return storage.sha256_bytes(_json(content).encode())
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(content):
        digest.update(b", " if number else b"")
        for piece in item.pieces() if isinstance(item, Streamed) else [_json(item)]:
            digest.update(piece.encode())
    digest.update(b"]")
    return digest.hexdigest()


def _json(content: object) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def file_fingerprints(uris: Iterable[str | None], *, closed: str | None = None) -> Iterator[str | None]:
    """What identifies the content of each raw file (`storage.content_tag`); None for a file that is missing.

    Nothing is looked at where the URI is None. `closed` stands for a file that may not be read; without it that raises
    `StorageError`.
    """
    waiting = iter(uris)

    def tag(uri: str | None) -> str | None:
        try:
            return None if uri is None else storage.content_tag(uri)
        except StoreUnavailable:
            raise
        except StorageError:
            if closed is None:
                raise
            return closed

    def tags(some: list[str | None]) -> list[str | None]:
        return [tag(uri) for uri in some]

    with ThreadPoolExecutor(_READERS) as pool:
        while some := list(itertools.islice(waiting, _FILES_AT_ONCE)):
            # A future for each of millions of files would cost more than a look at most of them.
            groups = [some[first : first + _FILES_A_TURN] for first in range(0, len(some), _FILES_A_TURN)]
            yield from itertools.chain.from_iterable(pool.map(tags, groups))


@contextmanager
def begin_output(
    output: str, fingerprint: str, *, record: str, what: str, overwrite: bool = False, shared: bool = False
) -> Iterator[bytes | None]:
    """Open an output that is no table: the bytes of its record when it is finished, None when there is work to do.

    Within the `with` block the lease on the output is held, unless it is finished; `OutputInUse` when another run
    is at work there. `record` names the JSON file that the stage writes last. Work of another fingerprint is refused
    with `ArtifactError`; `overwrite` removes it. Normally the directory belongs to the stage: `plan.json` holds the
    fingerprint from the start, and everything in the directory is removed. In a `shared` directory the record itself
    holds the fingerprint, and the record alone is removed.
    """
    record_uri = storage.join(output, record)
    if is_finished(output, fingerprint, record=record, shared=shared):
        yield storage.read_bytes(record_uri)
        return
    with Lease(output):
        _make_room(output, fingerprint, record, what, overwrite=overwrite, shared=shared)
        # Another run may have finished it before the lease was ours.
        yield storage.read_bytes(record_uri) if storage.exists(record_uri) else None


def is_finished(output: str, fingerprint: str, *, record: str, shared: bool = False) -> bool:
    """Whether an output that is no table holds the finished work of this fingerprint (see `begin_output`)."""
    holder = storage.join(output, record if shared else PLAN_NAME)
    return _held(holder) == fingerprint and storage.exists(storage.join(output, record))


def _make_room(
    output: str, fingerprint: str, record: str, what: str, *, overwrite: bool, shared: bool
) -> None:
    """Refuse or remove work of another fingerprint, and write the plan where the stage owns the directory."""
    holder = storage.join(output, record if shared else PLAN_NAME)
    held = storage.exists(holder)
    problem = ""
    if held and _held(holder) != fingerprint:
        problem = other_work(what)
    elif not held and not shared:
        problem = holds_other_files(output)
    if problem and not overwrite:
        raise ArtifactError(f"{output!r} {problem}")
    if problem:
        storage.delete(storage.join(output, record))  # first: a reader never finds a record without its files
        for file in storage.list_files(output) if not shared else ():
            if not file.name.startswith(LEASE_NAME):
                storage.delete(file.uri)
    if not shared and (problem or not held):
        storage.write_bytes(holder, json.dumps({"fingerprint": fingerprint}).encode() + b"\n")


def other_work(what: str) -> str:
    """The end of a sentence that refuses an output of another fingerprint."""
    return f"holds {what} made from other inputs or settings; pass --overwrite to replace it, or choose another output."


def holds_other_files(output: str) -> str:
    """The end of a sentence that refuses a directory with files of others; empty when there are none."""
    others = [file for file in storage.list_files(output) if not file.name.startswith(LEASE_NAME)]
    return "already holds other files; choose an empty output or pass --overwrite." if others else ""


def read_plan(content: bytes | None) -> tuple[str | None, int]:
    """Fingerprint and generation that a JSON file holds: None where it holds none, 0 where it does not say."""
    try:
        found = json.loads(content or b"null")
    except ValueError:
        return None, 0
    if not isinstance(found, dict):
        return None, 0
    return found.get("fingerprint"), int(found.get("generation", 0))


def _held(uri: str) -> str | None:
    """The fingerprint that a file holds; None where it holds none or is not there."""
    return read_plan(storage.read_bytes(uri))[0] if storage.exists(uri) else None
