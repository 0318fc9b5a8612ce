"""What an unfinished run keeps beside its checkpoints: what it is made from, the time it has spent, why it gave up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, TrainingDiverged

_RUN, _SPENT, _FAILED = "run.json", "spent.json", "failed.json"
_MOST_NAMED = 8  # differences that a refusal names


@dataclass(frozen=True)
class SpentTime:
    """Time that the steps of a run took so far, those too that were lost: wall clock, and CPU of worker 0.

    `step` is the last one that was noted, `at_s` when (Unix time).
    """

    step: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    at_s: float = 0.0


@dataclass(frozen=True)
class UnfinishedRun:
    """The files of a run in `folder`, the checkpoints' folder of an output."""

    folder: str

    def begin(self, content: Mapping[str, Any], *, overwrite: bool) -> None:
        """Note what the run is made from; refuse an unfinished run of something else, naming what differs.

        Raises `ArtifactError`, unless `overwrite`: then that run is removed.
        """
        there = self._read(_RUN)
        if there is not None and there != json.loads(json.dumps(content)):
            if not overwrite:
                raise ArtifactError(
                    f"{self.folder!r} holds an unfinished training that differs: {differences(there, content)}. "
                    "Finish it with its own settings, pass --overwrite to discard it, or choose another output."
                )
            storage.delete(self.folder)
        self._write(_RUN, content)
        storage.delete(storage.join(self.folder, _FAILED))

    def spent(self) -> SpentTime:
        """The time noted last."""
        found = self._read(_SPENT)
        return SpentTime() if found is None else SpentTime(**found)

    def note_spent(self, step: int, wall_s: float, cpu_s: float) -> None:
        """Note the time spent up to a step."""
        self._write(_SPENT, {"step": step, "wall_s": wall_s, "cpu_s": cpu_s, "at_s": time.time()})

    def note_failure(self, error: TrainingDiverged) -> None:
        """Note why the run gave up; a worker that raised it instead would be started again, to fail again."""
        self._write(_FAILED, {"message": str(error)})

    def raise_failure(self) -> None:
        """Raise the error that made the run give up, if one did."""
        found = self._read(_FAILED)
        if found is not None:
            raise TrainingDiverged(found["message"])

    def _read(self, name: str) -> dict[str, Any] | None:
        uri = storage.join(self.folder, name)
        if not storage.exists(uri):
            return None
        found: dict[str, Any] = json.loads(storage.read_bytes(uri))
        return found

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        storage.write_bytes(storage.join(self.folder, name), json.dumps(content).encode() + b"\n")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`key was X and is Y` for what differs between two nested mappings, the first few."""
    found = list(_differences(json.loads(json.dumps(before)), json.loads(json.dumps(now)), ""))
    more = f", and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more


def _differences(before: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key} was {_in_words(before)} and is {_in_words(now)}"


def _in_words(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
