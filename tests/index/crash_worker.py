"""Lives an index until it is killed: `python -m tests.index.crash_worker`, told on standard input what to do.

Every line `<index> <codes> <first step> <log>` forks a process that does one update after the other from that step
on and notes each in the log, synced, once it is acknowledged. Forking saves the start of an interpreter a trial.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache

from . import serial
from .building import Tiles, random_tiles

KINDS = ("add", "remove", "add", "compact", "build", "add", "remove")
FIRST = -3  # what is there before step 0, a build
State = dict[str, int]  # tile id -> the step that wrote it


def batch(step: int, state: State) -> Tiles:
    """The tiles that a step writes: new ones and, of those that are there, every fourth again."""
    old = sorted(state)[step % 4 :: 4] if KINDS[step % len(KINDS)] == "add" else sorted(state)[:30]
    ids = sorted({*old, *(f"s{step}-{number}" for number in range(20))})
    tiles = random_tiles(len(ids), bits=64, dim=4, seed=step - FIRST, distinct=9)
    return Tiles(ids, tiles.codes, tiles.embeddings, tiles.lat, tiles.lon)


def removed(step: int, state: State) -> list[str]:
    """The ids that a step removes."""
    return sorted(state)[step % 3 :: 3]


def after(step: int, state: State) -> State:
    """What the index holds after a step."""
    kind = KINDS[step % len(KINDS)]
    if kind == "remove":
        return {name: by for name, by in state.items() if name not in removed(step, state)}
    if kind == "compact":
        return state
    written = dict.fromkeys(batch(step, state).ids, step)
    return written if kind == "build" else {**state, **written}


def perform(index_uri: str, codes_uri: str, step: int, state: State) -> str:
    """Do a step; returns the snapshot's id."""
    kind = KINDS[step % len(KINDS)]
    if kind == "remove":
        return serial.remove(index_uri, removed(step, state))
    if kind == "compact":
        return serial.compact(index_uri, 25)
    codes = f"{codes_uri}/{step}"
    act = serial.build if kind == "build" else serial.add
    return act(index_uri, codes, batch(step, state))


def state_before(step: int) -> State:
    """What the index holds when all steps before this one are done; not to be changed."""
    for earlier in range(0, step, 100):  # long lives would recurse too deeply at once
        _state_before(earlier)
    return _state_before(step)


@cache
def _state_before(step: int) -> State:
    if step <= 0:
        return dict.fromkeys(batch(FIRST, {}).ids, FIRST)
    return after(step - 1, _state_before(step - 1))


def _live(index_uri: str, codes_uri: str, first: int, log: str) -> None:
    with tempfile.TemporaryDirectory() as warm:  # compiled code is loaded before it counts
        serial.build(f"{warm}/index", f"{warm}/codes", batch(FIRST, {}))
        serial.remove(f"{warm}/index", removed(0, state_before(0)))
    state = state_before(first)
    _say("alive")
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for step in range(first, first + 1000):
        snapshot_id = perform(index_uri, codes_uri, step, state)
        os.write(handle, f"{step} {snapshot_id}\n".encode())
        os.fsync(handle)
        state = after(step, state)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    _say("ready")
    for line in sys.stdin:
        index_uri, codes_uri, first, log = line.split()
        child = os.fork()
        if not child:
            _live(index_uri, codes_uri, int(first), log)
            os._exit(0)
        _say(str(child))
        _, status = os.waitpid(child, 0)
        _say(str(status))


if __name__ == "__main__":
    main()
