"""Two runs into one table, as processes with pauses at every access to the store: one winner or one refusal.

Whatever the pauses, the table that is left is of one run alone, and a run that did not get it says why.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa
import pytest

from geoloc.core import lease, part_table, storage
from geoloc.core.errors import ArtifactError
from geoloc.core.progress import say

PARTS = 3
LONGEST_S = 600  # of a run that takes a second: machines of tests are busy
REFUSALS = (
    "another run is at work there",
    "made from other inputs or settings",
    "has just begun to make",
    "has lost its lease",
    "over with --overwrite",
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["geoloc.core.part_table"])


@dataclass(frozen=True)
class Run:
    """One of two runs: its settings, and what happens to its process (`""`, `kill` or `stop`)."""

    settings: str
    overwrite: bool = False
    fate: str = ""


@dataclass(frozen=True)
class Pair:
    """Two runs; `old` is whether a table of other settings is there. After a fate the second follows the first."""

    first: Run
    second: Run
    old: bool = False


PAIRS = {
    "same settings": Pair(Run("f"), Run("f")),
    "other settings": Pair(Run("f"), Run("g")),
    "both overwrite": Pair(Run("f", True), Run("g", True), old=True),
    "overwrite a run at work": Pair(Run("f"), Run("g", True)),
    "same settings overwrite": Pair(Run("f", True), Run("f", True), old=True),
    "kill and run again": Pair(Run("f", fate="kill"), Run("f")),
    "kill and overwrite": Pair(Run("f", fate="kill"), Run("g", True)),
    "kill an overwrite": Pair(Run("f", True, fate="kill"), Run("g", True), old=True),
    "stop, overwrite, go on": Pair(Run("f", fate="stop"), Run("g", True)),
    "stop an overwrite, go on": Pair(Run("f", True, fate="stop"), Run("g", True), old=True),
}


def values(settings: str) -> list[str]:
    """What a table of these settings holds."""
    return [f"{settings} {index}" for index in range(PARTS)]


def stage(uri: str, run: Run, seed: int, far: bool, environment: dict[str, str], answer: Connection) -> None:
    """A stage in miniature; with `far`, each run takes the other for one of another machine."""
    os.environ.update(environment)
    os.fsync = lambda handle: None  # a busy disk takes seconds for it, and no machine fails here
    pauses = random.Random(seed)
    for name in ("put_if_absent", "compare_and_swap", "write_bytes", "read_bytes", "delete", "list_files"):
        setattr(storage, name, _pausing(getattr(storage, name), pauses))
    lease.RENEW_S, lease.EXPIRES_S = (0.05, 0.4) if far else (lease.RENEW_S, lease.EXPIRES_S)
    if far:
        lease.process_identity = lambda pid: None
    try:
        with part_table.begin(uri, run.settings, overwrite=run.overwrite) as table:
            if table.finished is not None:
                answer.send("reused")
                return
            parts = [
                table.write_part(index, pa.table({"value": [value]}))
                for index, value in enumerate(values(run.settings))
            ]
            table.publish(kind="test", parts=parts)
        answer.send("made")
    except ArtifactError as error:
        answer.send(f"refused: {error}")


def _pausing(call: Any, pauses: random.Random) -> Any:
    def paused(*words: Any, **options: Any) -> Any:
        if pauses.random() < 0.3:
            time.sleep(pauses.random() * 0.02)
        return call(*words, **options)

    return paused


def start(uri: str, run: Run, seed: int, *, far: bool) -> tuple[Any, Connection]:
    ours, theirs = PROCESSES.Pipe()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = PROCESSES.Process(target=stage, args=(uri, run, seed, far, environment, theirs))
    process.start()
    theirs.close()
    return process, ours


def outcome(process: Any, answer: Connection) -> str:
    """`made`, `reused`, `killed` or `refused: <sentence>`."""
    process.join(LONGEST_S)
    assert process.exitcode is not None, "a run waits for ever"
    try:
        return str(answer.recv())
    except EOFError:
        return "killed" if process.exitcode == -signal.SIGKILL else f"failed with {process.exitcode}"


def play(uri: str, pair: Pair, seed: int) -> tuple[str, str]:
    """Both runs at once, or the second after the first was killed or stopped; their outcomes."""
    fate = pair.first.fate
    chance = random.Random(seed)
    first = start(uri, pair.first, seed, far=fate == "stop")
    time.sleep(chance.random() * (0.25 if fate else 0.05))
    if fate and first[0].is_alive():
        os.kill(first[0].pid, signal.SIGKILL if fate == "kill" else signal.SIGSTOP)
    if fate == "kill":
        first[0].join(LONGEST_S)  # its process is gone, so nobody waits for its lease
    second = start(uri, pair.second, seed + 1, far=fate == "stop")
    if fate == "stop":
        time.sleep(chance.random() * 0.8)
        if first[0].is_alive():
            os.kill(first[0].pid, signal.SIGCONT)
    return outcome(*first), outcome(*second)


def check(uri: str, pair: Pair, outcomes: tuple[str, str]) -> str:
    """The word for a round that went well; raises `AssertionError` for a mixture or a silent loser."""
    for each in outcomes:
        assert each in ("made", "reused", "killed") or any(words in each for words in REFUSALS), each
    words = [each.partition(":")[0] for each in outcomes]
    if "made" in words or "reused" in words or pair.old:
        manifest = part_table.read_manifest(uri)
        assert part_table.read(uri)["value"].to_pylist() == values(manifest.fingerprint)
        if words == ["made", "refused"]:
            assert manifest.fingerprint == pair.first.settings
        if words[1] == "made":
            assert manifest.fingerprint in (pair.second.settings, pair.first.settings)
        if words == ["refused", "made"]:
            assert manifest.fingerprint == pair.second.settings
    assert words != ["refused", "refused"] or pair.first.fate, outcomes
    assert not storage.exists(storage.join(uri, "lease.json")) or words[1] == "refused"
    return " and ".join(words)


def rounds(root: str, name: str, count: int) -> Counter[str]:
    """Play a pair so often; how often each outcome was seen."""
    pair, seen = PAIRS[name], Counter[str]()
    for number in range(count):
        uri = storage.join(root, f"{name.replace(' ', '-')}-{number}")
        if pair.old:
            table = [pa.table({"value": [value]}) for value in values("old")]
            part_table.write_table(uri, table, kind="test", fingerprint="old")
        seed = secrets.randbelow(2**31)
        outcomes = play(uri, pair, seed)
        try:
            seen[check(uri, pair, outcomes)] += 1
        except AssertionError as error:
            raise AssertionError(f"{name}, seed {seed}: {outcomes}") from error
    say(f"{name}: {dict(seen)}")
    return seen


@pytest.mark.parametrize("name", PAIRS)
def test_two_runs_into_one_table_never_mix(name: str, tmp_path: Any) -> None:
    seen = rounds(str(tmp_path), name, 2)
    assert sum(seen.values()) == 2


@pytest.mark.parametrize("name", ["other settings", "both overwrite"])
def test_two_runs_on_an_object_store_never_mix(name: str, s3_uri: str) -> None:
    assert sum(rounds(s3_uri, name, 2).values()) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PAIRS)
def test_two_runs_never_mix_in_200_rounds(name: str, tmp_path: Any) -> None:
    seen = rounds(str(tmp_path), name, 200)
    assert sum(seen.values()) == 200
    assert any("made" in outcome for outcome in seen)


def test_a_reader_finds_the_old_table_or_the_new_one_at_any_time(tmp_path: Any) -> None:
    uri = str(tmp_path / "table")
    part_table.write_table(
        uri, [pa.table({"value": [value]}) for value in values("f")], kind="test", fingerprint="f"
    )
    process, answer = start(uri, Run("g", True), 5, far=False)
    seen = set()
    while process.is_alive():
        manifest = part_table.read_manifest(uri)
        try:
            found = part_table.read(uri)["value"].to_pylist()
        except ArtifactError:
            assert part_table.read_manifest(uri) != manifest, "a part is gone though its table is there"
            continue
        assert found in (values("f"), values("g"))
        seen.add(found[0][0])
    assert outcome(process, answer) == "made"
    assert part_table.read(uri)["value"].to_pylist() == values("g")
    assert "f" in seen
