"""What a build will take, in plain units, before it starts: time, memory, disk; and whether it fits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from geoloc.core.errors import ConfigError, StorageError
from geoloc.index.build.shard_plan import RUN_BYTES

_RUN_COPIES = 4  # a run in memory: parts as read, joined, sorted, and what Arrow keeps
_SHARD_ID_BYTES = (
    160  # of a tile while its shard is built: id and coordinates three times, order and positions
)
_PROCESS_BYTES = 300 * 10**6  # a Ray worker with its libraries
_DRIVER_BYTES = 100 * 10**6  # histograms and borders, whatever the number of tiles
# Each tile is read, written to a run, read back, written to a shard and hashed twice.
_WORK_FACTOR = 4.0
_LEAST_S = 3.0


class Machine(BaseModel):
    """What the build runs on; None where it is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks_at_once: int
    memory_bytes: int | None
    free_disk_bytes: int | None


class Estimate(BaseModel):
    """What a build takes; bytes of disk are those left afterwards, scratch those in between, freed at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: int
    bits: int
    shards: int
    tiles_per_shard: int
    seconds: float
    memory_per_task_bytes: int
    tasks_at_once: int
    driver_bytes: int
    disk_bytes: int
    scratch_bytes: int
    free_disk_bytes: int | None
    memory_of_a_machine_bytes: int | None

    def text(self) -> str:
        """One line in plain units."""
        return (
            f"{self.tiles:,} tiles x {self.bits} bits in {self.shards} shards of about {self.tiles_per_shard:,}; about "
            f"{size_text(self.disk_bytes)} of disk and {size_text(self.scratch_bytes)} of it more while it runs, "
            f"{size_text(self.memory_per_task_bytes)} of memory a task ({self.tasks_at_once} at once) and "
            f"{time_text(self.seconds)}"
        )

    def check_fits(self, output: str) -> None:
        """Raise `ConfigError` for memory, `StorageError` for disk that is not there."""
        memory = self.memory_of_a_machine_bytes
        if memory is not None and self.memory_per_task_bytes > memory:
            raise ConfigError(
                f"A shard of {self.tiles_per_shard:,} tiles needs about {size_text(self.memory_per_task_bytes)} of "
                f"memory to build, the largest machine has {size_text(memory)}. Ask for more shards (now "
                f"{self.shards}) or use a larger machine."
            )
        needed, free = self.disk_bytes + self.scratch_bytes, self.free_disk_bytes
        if free is not None and needed > free:
            raise StorageError(
                f"The index needs about {size_text(needed)} of disk while it is built, {output!r} has "
                f"{size_text(free)} free; make room or choose another output."
            )


def estimate(
    *,
    tiles: int,
    bits: int,
    bytes_per_tile: int,
    shards: int,
    largest_source_bytes: int,
    model_bytes: int,
    read_bytes_per_s: float,
    machine: Machine,
) -> Estimate:
    """The estimate of a build. `read_bytes_per_s`: how fast one process reads and checks a part of the source."""
    shards = max(1, min(shards, tiles))
    largest = -(-tiles // shards)
    run = (
        max(RUN_BYTES, largest_source_bytes) if tiles * bytes_per_tile > RUN_BYTES else tiles * bytes_per_tile
    )
    at_once = max(1, min(machine.tasks_at_once, max(shards, tiles * bytes_per_tile // RUN_BYTES)))
    work_s = _WORK_FACTOR * tiles * bytes_per_tile / read_bytes_per_s / at_once
    return Estimate(
        tiles=tiles,
        bits=bits,
        shards=shards,
        tiles_per_shard=largest,
        seconds=max(_LEAST_S, work_s),
        memory_per_task_bytes=_PROCESS_BYTES + max(_RUN_COPIES * run, largest * _SHARD_ID_BYTES + RUN_BYTES),
        tasks_at_once=at_once,
        driver_bytes=_DRIVER_BYTES,
        disk_bytes=tiles * bytes_per_tile + model_bytes,
        scratch_bytes=tiles * (bytes_per_tile + 16) + at_once * largest * bytes_per_tile,
        free_disk_bytes=machine.free_disk_bytes,
        memory_of_a_machine_bytes=machine.memory_bytes,
    )


def size_text(count: float) -> str:
    """Bytes in kB, MB, GB or TB."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    unit, divisor = next(((unit, divisor) for unit, divisor in units if count >= divisor), ("kB", 1e3))
    return f"{count / divisor:,.1f} {unit}"


def time_text(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
